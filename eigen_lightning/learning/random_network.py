"""As many directions learned on the target with random parameters: what architecture and samples do alone."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eigen_lightning.curvature import Chunk, LinearizedBatch, Linearizer, Scale, TraceNormalization
from eigen_lightning.directions import Start
from eigen_lightning.directions.start import choose, cover
from eigen_lightning.run.collectives import gathered
from eigen_lightning.run.seeding import derive_seed

if TYPE_CHECKING:
    from eigen_lightning.learning.module import SparseEigendecomposition

SWEEPS = 10
"""Coverage steps on all samples of the start, where the trained network's directions see the stream."""


class RandomNetwork:
    """The control: linearizes batches and has directions, as the module of the trained network does.

    Attributes:
        device: of the module it is the control of.
        directions: learned on the random network, ``[K, P]``.
    """

    def __init__(self, module: "SparseEigendecomposition", seed: int) -> None:
        self.device = module.device
        self._exponent = module.exponent
        target = module.target.randomized(derive_seed(seed, "random network")).to(module.device)
        data = module.trainer.datamodule  # type: ignore[attr-defined]
        settings = module.start_settings or Start()
        size = min(data.batch_size, len(data.train_set))
        self._inputs = [
            data.train_set.batch(0, part).inputs.to(module.device)
            for part in torch.arange(min(max(settings.samples, size), len(data.train_set))).split(size)
            if len(part) == size
        ][module.trainer.global_rank :: module.trainer.world_size]
        normalization = module.normalization or TraceNormalization()
        self.linearizer = Linearizer.prepare(
            target, module.divergence, self._inputs[0], traces=normalization, chunk=Chunk(module.chunk.rows),
            n_directions=module.n_directions, seed=derive_seed(seed, "probes"),
        )  # fmt: skip
        unscaled = [self.linearizer(inputs) for inputs in self._inputs]
        # What belongs to samples is held, and the network's coefficients, which take more memory, are not.
        self._parts = [(batch.metric, batch.trace) for batch in unscaled]
        traces = torch.cat([trace.flatten() for _, trace in self._parts])
        self.scale = Scale.fit(normalization, torch.cat(gathered(traces)).sort().values)
        like = self.linearizer.origin
        rows = choose(self, module.n_directions, len(like), like, settings, self._exponent, seed).rows
        self.directions = cover(rows, self, self._exponent, SWEEPS)

    def passes(self) -> Iterable[tuple[Tensor, LinearizedBatch]]:
        """See :class:`eigen_lightning.directions.start.StartSamples`."""
        for inputs, (metric, trace) in zip(self._inputs, self._parts, strict=True):
            yield inputs, self.linearizer(inputs, metric, trace, self.scale)

    def linearize(self, inputs: Tensor) -> LinearizedBatch:
        """See :class:`eigen_lightning.directions.start.StartSamples`."""
        return self.linearizer(inputs, scale=self.scale)

    def linearize_dense(self, batch: Any, samples: Any = None) -> LinearizedBatch:
        """A batch of samples, unscaled for judging."""
        return self.linearizer(batch.inputs)
