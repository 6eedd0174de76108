"""Several random starts climbed together on the same samples; the best is kept, by steepness alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.decomposition.polar import polar_rows
from eigen_lightning.decomposition.scaled_curvature import ScaledCurvature
from eigen_lightning.errors import UserError
from eigen_lightning.seeding import derive_seed
from eigen_lightning.waiting import Waiting


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


def random_start(n_directions: int, size: int, seed: int, number: int) -> Float[Tensor, "K P"]:
    """Start number ``number`` of a seed: random rows, orthonormal in groups of at most P."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "start", number))
    return polar_rows(torch.randn(n_directions, size, generator=generator, dtype=torch.float64))


def climb(
    starts: Float[Tensor, "S K P"],
    curvature: ScaledCurvature,
    batches: Sequence[Any],
    steps: int,
    reduce: Callable[[Tensor], Tensor],
) -> tuple[Float[Tensor, "S K P"], Float[Tensor, " S"]]:
    """Raise the steepness of every start by full polar steps.

    Args:
        starts: S sets of directions.
        curvature: in the losses' scale.
        batches: the samples they climb on; more than one are linearized again each step.
        steps: how many steps.
        reduce: mean over ranks.

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
            gradient, score = reduce(gradient), reduce(score)
            starts = polar_rows(gradient)
            waiting.reach(step + 1)
    return starts, score
