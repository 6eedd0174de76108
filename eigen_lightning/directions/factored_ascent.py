"""Learning directions that are held as factors: their start, and the optimizer of their steps."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from eigen_lightning.curvature.factored import FactoredSpace, Side
from eigen_lightning.directions.losses import Coverage, Steepness
from eigen_lightning.directions.start import Choice, Start, StartSamples, choose_from, total_gradient
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.waiting import Waiting

SURPLUS = 2
"""Rows that climb, times those of a dense start: they are kept apart only nearly, so that more of them end up alike."""

CHOICE = 4
"""Samples that directions are chosen on, times those that they climb on and are fitted to."""

GRAM_TOLERANCE = 1e-12
"""Eigenvalues of inner products, relative to the largest, below which there is nothing but rounding."""


@dataclass(frozen=True)
class Factored:
    """How directions are held as factors.

    Attributes:
        rank: of a direction's part in each matrix.
        probes: random directions from which each sample's trace is estimated where dense ones do not fit; of rank 1 in
            each matrix, they have more variance.

    Raises:
        UserError: where one is below 1.
    """

    rank: int = 1
    probes: int = 64

    def __post_init__(self) -> None:
        if min(self.rank, self.probes) < 1:
            raise UserError(f"expected directions.rank and directions.probes of at least 1, got {self}")


def choose_factored(
    space: FactoredSpace,
    samples: StartSamples,
    more: StartSamples,
    n_directions: int | None,
    like: Tensor,
    start: Start,
    exponent: float,
    seed: int,
) -> Choice:
    """Surplus rows climb apart from each other, and directions are chosen from them by coverage.

    Nothing of size K x P is needed.

    Args:
        space: of the coordinates.
        samples: what rows climb on.
        more: what directions are chosen on.
        n_directions: K; None chooses as many as there are features.
        like: a tensor of the dtype and device to work in.
        start: the settings; its singular vectors and principal directions are of dense rows alone.
        exponent: of d in steepness and coverage.
        seed: of the random rows.
    """
    wanted = n_directions or start.unknown(space.space.size)
    surplus = round(SURPLUS * start.surplus * wanted)
    rows = space.random(surplus, seed, "start").to(like)
    with Waiting(f"Climbing {surplus} rows", start.steps) as waiting:
        for step in range(start.steps):
            gradient = total_gradient(rows, samples, Steepness(exponent))
            rows = repelled_step(space, rows, gradient, side_of(step))
            waiting.reach(step + 1)
    chosen, gains, sharing = choose_from(rows, more, n_directions, exponent)
    rows = rows[chosen]
    for step in range(start.sweeps):
        gradient = total_gradient(rows, samples, Coverage(exponent)).to(rows)
        rows = free_step(space, rows, gradient, side_of(start.steps + step))
    # C with orthonormal columns, as the optimizer's first step expects.
    return Choice(space.orthonormal(rows, 1), gains, sharing)


def free_step(
    space: FactoredSpace, rows: Float[Tensor, "K Q"], gradient: Float[Tensor, "K Q"], side: Side
) -> Float[Tensor, "K Q"]:
    """One ascent step of one factor of free rows: it becomes the gradient by it. A row whose gradient vanishes stays.

    Args:
        space: of the coordinates.
        rows: unit directions, the factor other than ``side`` with orthonormal columns.
        gradient: of an objective to be raised, by the coordinates.
        side: the factor that moves.
    """
    return space.settled(space.moved(rows, gradient, side), rows, side)


def repelled_step(
    space: FactoredSpace, rows: Float[Tensor, "K Q"], gradient: Float[Tensor, "K Q"], side: Side
) -> Float[Tensor, "K Q"]:
    """One ascent step of one factor of rows that keep apart: the polar factor of the moved rows, projected on what the
    factors that are held span.

    The polar factor ``(M M^T)^(-1/2) M`` of the moved rows M needs their inner products alone. Projected it is
    orthonormal only nearly: rows may share a feature, as they must where there are more of them than features, but do
    not all end at the steepest. A row whose gradient vanishes stays.

    Args:
        space: of the coordinates.
        rows, gradient, side: as of :func:`free_step`.
    """
    moved = space.moved(rows.double(), gradient.double(), side)
    gram = space.inner(moved, moved)
    values, vectors = torch.linalg.eigh(gram)
    roots = torch.where(values > GRAM_TOLERANCE * values[-1], values, torch.inf).rsqrt()
    # Zeros where a gradient vanishes, in place of the rounding of others.
    weights = (vectors * roots @ vectors.T) * (gram.diagonal() > 0)[:, None]
    return space.settled(space.mixed(weights, moved, side), rows, side)


def side_of(step: int) -> Side:
    """The factor that a step moves: B and C in turn."""
    return 0 if step % 2 == 0 else 1


class FactoredAscent(Optimizer):
    """Coverage steps of free rows held as factors: B and C in turn become the average gradient by them.

    Gradients are averaged exponentially for each side, on the coordinates as they then are. Like every torch optimizer
    it takes gradients of a loss to be minimized, here minus the objective.

    Args:
        params: the matrix of coordinates ``[K, Q]``.
        space: of the coordinates.
        momentum: weight of the past in the averages, in [0, 1).

    Raises:
        UserError: where momentum is out of range.
    """

    def __init__(self, params: Iterable[Any], space: FactoredSpace, momentum: float = 0.9) -> None:
        if not 0 <= momentum < 1:
            raise UserError(f"expected momentum in [0, 1), got {momentum}")
        super().__init__(params, {"momentum": momentum})
        self.space = space

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of one factor of every direction."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for param in (each for each in group["params"] if each.grad is not None):
                param.copy_(self._moved(param, -param.grad, group["momentum"]))
        return loss

    def _moved(
        self, param: Float[Tensor, "K Q"], ascent: Float[Tensor, "K Q"], momentum: float
    ) -> Float[Tensor, "K Q"]:
        state = self.state[param]
        state["steps"] = state.get("steps", 0) + 1
        side = side_of(state["steps"] - 1)
        name = ("average_by_B", "average_by_C")[side]
        if name not in state:
            state[name] = ascent.clone()
        else:
            state[name].lerp_(ascent, 1 - momentum)
        return free_step(self.space, param, state[name], side)
