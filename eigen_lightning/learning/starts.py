"""Several random starts climbed together on the same samples; the best is kept, by steepness alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.learning.layout import Whole
from eigen_lightning.learning.scaled_curvature import ScaledCurvature
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.waiting import Waiting


@dataclass(frozen=True)
class Starts:
    """How U starts.

    Attributes:
        count: random starts; each is reproducible from the seed and its number.
        steps: full polar steps that each climbs before the best is chosen; 0 keeps the first start as it is.
        samples: training samples they climb on.
    """

    count: int = 8
    steps: int = 30
    samples: int = 4096

    def __post_init__(self) -> None:
        if self.count < 1 or self.steps < 0 or self.samples < 1:
            raise UserError(f"expected starts.count >= 1, starts.steps >= 0 and starts.samples >= 1, got {self}")


DRAWN = 2**20
"""Random numbers that are drawn at a time; a multiple of 16, which is how many torch's generator makes at once."""


def random_rows(n_directions: int, size: int, seed: int, number: int, own: slice) -> Float[Tensor, "k P"]:
    """Some of the rows of start number ``number`` of a seed: normal numbers, float64.

    They are those of ``torch.randn(K, P)``, of which no more than these rows are ever held.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "start", number))
    first, last = own.start * size, own.stop * size
    rows = torch.empty(last - first, dtype=torch.float64)
    drawn, total = 0, n_directions * size
    while drawn < last:
        # The last numbers are made otherwise where they are fewer than 16: never on their own.
        count = DRAWN if total - drawn >= 2 * DRAWN else total - drawn
        part = torch.randn(count, generator=generator, dtype=torch.float64)
        begin, end = max(first, drawn), min(last, drawn + count)
        if begin < end:
            rows[begin - first : end - first] = part[begin - drawn : end - drawn]
        drawn += count
    return rows.view(-1, size)


def climb(
    starts: Float[Tensor, "S k P"],
    curvature: ScaledCurvature,
    batches: Sequence[Any],
    steps: int,
    layout: Whole,
) -> tuple[Float[Tensor, "S k P"], Float[Tensor, " S"]]:
    """Raise the steepness of every start by full polar steps.

    S times U is alive here, its gradient and what the polar step makes of it: where U is split by rows, S times this
    process's rows, and the exchange for columns of one start at a time.

    Args:
        starts: S sets of directions, this process's rows.
        curvature: in the losses' scale.
        batches: the samples they climb on; more than one are linearized again each step.
        steps: how many steps.
        layout: of U.

    Returns:
        The starts after the last step, and the steepness of each before that step.
    """
    n_starts, n_directions, size = starts.shape
    score = starts.new_zeros(n_starts)
    with Waiting("Climbing from several starts", steps) as waiting:
        for step in range(steps):
            gradient = torch.zeros_like(starts)
            score = starts.new_zeros(n_starts)
            for batch in batches:
                values, slope = curvature.value_and_gradient(
                    starts.reshape(-1, size), batch, lambda each, _: each.flatten(1).square().mean(1).sum()
                )
                gradient += slope.view_as(starts) / len(batches)
                score += values.flatten(1).square().mean(1).view(n_starts, n_directions).sum(1) / len(batches)
            gradient, score = layout.mean(gradient), layout.mean(layout.sum_over_rows(score))
            starts = layout.polar(gradient)
            waiting.reach(step + 1)
    return starts, score
