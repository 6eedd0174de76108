"""The start of a run: its samples, its scale, its objective and its first directions."""

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eigen_lightning.curvature import LinearizedBatch, Scale, TraceNormalization
from eigen_lightning.data.stream import Batch
from eigen_lightning.directions import Start, polar
from eigen_lightning.directions.dense import random_rows, with_canonical_sign
from eigen_lightning.directions.factored_ascent import CHOICE, choose_factored
from eigen_lightning.directions.start import choose, climb, cover
from eigen_lightning.learning.checkpoint_state import Learned
from eigen_lightning.run.collectives import gathered
from eigen_lightning.run.seeding import run_seed

if TYPE_CHECKING:
    from eigen_lightning.learning.module import SparseEigendecomposition

log = logging.getLogger(__name__)


class Samples:
    """The first training samples, this rank's share, linearized once where that fits and once a pass otherwise."""

    def __init__(self, module: "SparseEigendecomposition", scale: Scale | None = None, times: int = 1) -> None:
        """
        Args:
            module: with its Trainer.
            scale: of the losses, where it is known.
            times: how many times the samples of the start to take, where there are so many.
        """
        self.module = module
        self.scale = scale
        self.batches = list(self._first((module.start_settings or Start()).samples * times))
        self._resident: dict[int, LinearizedBatch] = {}
        self._traces: dict[int, Tensor] = {}

    def _first(self, wanted: int) -> Iterator[Batch]:
        trainer = self.module.trainer
        loader, count = trainer.train_dataloader, 0
        # Not by iterating the loader: one with workers has a single iterator, and training would miss these batches.
        for key in loader.sampler:
            batch = trainer.strategy.batch_to_device(loader.dataset[key], self.module.device)
            yield batch
            count += len(batch.inputs) * trainer.world_size
            if count >= wanted:
                return

    def _linearized(self, number: int) -> LinearizedBatch:
        if number in self._resident:
            return self._resident[number]
        batch = self.module.linearize(self.batches[number], self.module.trainer.datamodule.train_set)  # type: ignore[attr-defined]
        if number in self._traces:
            batch = batch.with_trace(self._traces[number])
        if batch.written_out or len(self.batches) == 1:
            self._resident[number] = batch
        return batch

    def fit_scale(self, normalization: TraceNormalization | None) -> Scale | None:
        """The scale of the losses, from the traces of these samples."""
        if normalization is None:
            return None
        self._traces = {number: self._linearized(number).trace for number in range(len(self.batches))}
        # Sorted, so that the sum does not depend on which rank had which sample.
        traces = torch.cat([trace.flatten() for trace in self._traces.values()])
        everyones = torch.cat(gathered(traces)).sort().values
        self.scale = Scale.fit(normalization, everyones)
        self._resident = {number: batch.scaled_by(self.scale) for number, batch in self._resident.items()}
        return self.scale

    def passes(self) -> Iterable[tuple[Tensor, LinearizedBatch]]:
        """See :class:`eigen_lightning.directions.start.StartSamples`."""
        for number, batch in enumerate(self.batches):
            yield batch.inputs, self._linearized(number).scaled_by(self.scale)

    def linearize(self, inputs: Tensor) -> LinearizedBatch:
        """See :class:`eigen_lightning.directions.start.StartSamples`."""
        return self.module.linearize_inputs(inputs).scaled_by(self.scale)


def start(module: "SparseEigendecomposition", samples: Samples, settings: Start, scale: Scale | None) -> Learned:
    """Choose the objective where that is left open, and the first directions; they are written to ``module.U``."""
    wanted = None if module.wanted_directions == "auto" else module.wanted_directions
    size, like = module.target.space.size, module.U.detach()
    if module.coordinates is not None:
        more = Samples(module, scale, CHOICE)
        choice = choose_factored(module.coordinates, samples, more, wanted, like, settings, module.exponent, run_seed())
        module.U.data = choice.rows
        return Learned(scale, "coverage", module.exponent, choice.gains, choice.sharing)
    if module.objective_name == "steepness":
        assert wanted is not None
        rows = climb(
            polar(random_rows(wanted, size, run_seed(), "start")).to(like),
            samples,
            module.exponent,
            settings.steps,
            "Climbing",
        )
        module.U.data = with_canonical_sign(rows)
        return Learned(scale, "steepness", module.exponent)
    choice = choose(samples, wanted, size, like, settings, module.exponent, run_seed())
    dense = module.objective_name == "auto" and choice.sharing > module.dense_above
    if module.objective_name == "auto":
        log.info(
            "%.1f directions share a sample (median): %s, as that is %s %g",
            choice.sharing,
            "steepness of orthonormal rows" if dense else "coverage",
            "above" if dense else "at most",
            module.dense_above,
        )
    if dense:
        rows = polar(random_rows(len(choice.rows), size, run_seed(), "dense start")).to(like)
        rows = climb(rows, samples, module.dense_exponent, settings.steps, "Climbing at a lower exponent")
        module.U.data = with_canonical_sign(rows)
        return Learned(scale, "steepness", module.dense_exponent, choice.gains, choice.sharing)
    rows = cover(choice.rows, samples, module.exponent, settings.sweeps)
    module.U.data = with_canonical_sign(rows)
    return Learned(scale, "coverage", module.exponent, choice.gains, choice.sharing)
