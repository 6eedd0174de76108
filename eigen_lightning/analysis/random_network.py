"""As many directions learned on the target with random parameters: what architecture and samples do alone."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.analysis.subject import Subject
from eigen_lightning.curvature import Chunk, Divergence, LinearizedBatch, Linearizer, Scale, TraceNormalization
from eigen_lightning.directions import Start
from eigen_lightning.directions.start import choose, cover
from eigen_lightning.run.collectives import gathered
from eigen_lightning.run.seeding import derive_seed

SWEEPS = 10
"""Coverage steps on all samples of the start, where the trained network's directions see the stream."""


def learned_on_random_network(
    subject: Subject,
    inputs: Sequence[Any],
    divergence: Divergence,
    normalization: TraceNormalization,
    start: Start,
    n_directions: int,
    rows: int | None,
    seed: int,
) -> tuple[Subject, Float[Tensor, "K P"]]:
    """The control: directions learned on a random network by the recipe of the trained one.

    Args:
        subject: the network with random parameters in place of the trained ones.
        inputs: batches to learn on, all of one size; this rank's share.
        divergence: D.
        normalization: how d2D is divided.
        start: how directions start.
        n_directions: K.
        rows: directions evaluated at a time.
        seed: of directions and probes.
    """
    target = subject.target
    linearizer = Linearizer.prepare(
        target, divergence, inputs[0], traces=normalization, chunk=Chunk(rows),
        n_directions=n_directions, seed=derive_seed(seed, "probes"),
    )  # fmt: skip
    samples = _Samples(linearizer, inputs, normalization)
    like = linearizer.origin
    directions = choose(samples, n_directions, len(like), like, start, subject.exponent, seed).rows
    directions = cover(directions, samples, subject.exponent, SWEEPS)

    def linearize(batch: Any, samples: Any) -> LinearizedBatch:
        return linearizer(batch.inputs)

    return replace(subject, linearizer=linearizer, linearize=linearize), directions


class _Samples:
    """See :class:`eigen_lightning.directions.start.StartSamples`."""

    def __init__(self, linearizer: Linearizer, inputs: Sequence[Any], normalization: TraceNormalization) -> None:
        self.linearizer, self.inputs = linearizer, inputs
        unscaled = [linearizer(batch) for batch in inputs]
        # What belongs to samples is held, and the network's coefficients, which take more memory, are not.
        self.parts = [(batch.metric, batch.trace) for batch in unscaled]
        traces = torch.cat([trace.flatten() for _, trace in self.parts])
        self.scale = Scale.fit(normalization, torch.cat(gathered(traces)).sort().values)

    def passes(self) -> Iterable[tuple[Tensor, LinearizedBatch]]:
        for inputs, (metric, trace) in zip(self.inputs, self.parts, strict=True):
            yield inputs, self.linearizer(inputs, metric, trace, self.scale)

    def linearize(self, inputs: Tensor) -> LinearizedBatch:
        return self.linearizer(inputs, scale=self.scale)
