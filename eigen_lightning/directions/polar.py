"""The polar factor, and the optimizer that climbs convex objectives of unit directions by it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from eigen_lightning.run.errors import UserError


def polar(matrix: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
    """The nearest matrix with orthonormal rows, in groups of at most P rows where K > P.

    QR of the transpose in float64, then the singular value decomposition of its K x K factor: exact for rows of any
    norm (a Gram matrix loses rows 1e-7 as long as others). Rows keep their norms before: scaled to one length first
    they have another polar factor. Where rank is missing the rest is filled with fixed pseudo-random rows orthogonal
    to all others, so that rounding does not choose them.
    """
    groups = -(-len(matrix) // matrix.shape[1])
    return torch.cat([_polar(part.double()) for part in matrix.chunk(groups)]).to(matrix.dtype)


def _polar(matrix: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
    basis, triangle = torch.linalg.qr(matrix.T)
    left, values, right = torch.linalg.svd(triangle.T)
    missing = values <= RANK_TOLERANCE * values[0]
    if not missing.any():
        return left @ right @ basis.T
    rows = right[~missing] @ basis.T
    generator = torch.Generator().manual_seed(0)
    fill = torch.randn(matrix.shape, generator=generator, dtype=torch.float64).to(matrix)
    # Twice, as the first time leaves the rounding of what it took away.
    for _ in range(2):
        fill = fill - fill @ rows.T @ rows
    # Within the left null space alone, where the choice of singular vectors does not matter.
    null = left[:, missing]
    outer, _, inner = torch.linalg.svd(null.T @ fill, full_matrices=False)
    return left[:, ~missing] @ rows + null @ (outer @ inner)


RANK_TOLERANCE = 1e-13
"""Singular values relative to the largest below which a float64 factorization holds nothing but rounding."""


def unit(rows: Float[Tensor, "K P"], otherwise: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
    """Rows scaled to length 1; where one is zero, the row of ``otherwise``."""
    norm = torch.linalg.vector_norm(rows.double(), dim=-1, keepdim=True)
    scaled = (rows / norm.clamp_min(torch.finfo(torch.float64).tiny)).to(rows.dtype)
    return torch.where(norm > 0, scaled, otherwise)


class PolarAscent(Optimizer):
    """``U <- polar(average gradient)``, or for free rows ``u_k <- unit(average gradient_k)``: no learning rate.

    On unit rows steepness and coverage are convex in U, so that each step on a fixed set of samples can only raise
    them: the generalized power step of matching, stretching and projection (Zhai et al., "Complete dictionary learning
    via l4-norm maximization over the orthogonal group", JMLR 2020, algorithm 2). Batches are averaged exponentially.
    A row without gradient stays.

    Like every torch optimizer it takes gradients of a loss to be minimized, here minus the objective. Where it also
    takes the steps of stage 2 (``stage2: null``), the average is that of both losses and the step the power step of
    their sum.

    Args:
        params: matrices ``[K, P]`` of directions.
        momentum: weight of the past in the average of gradients, in [0, 1).
        orthonormal: hold rows orthonormal, in groups of at most P; otherwise each is normalized alone.
        shift: add each gradient's norm times the row to it, which keeps a step an ascent where interference makes the
            objective concave; rows in groups are always shifted.

    Raises:
        UserError: where momentum is out of range.
    """

    def __init__(
        self, params: Iterable[Any], momentum: float = 0.9, orthonormal: bool = True, shift: bool = False
    ) -> None:
        if not 0 <= momentum < 1:
            raise UserError(f"expected momentum in [0, 1), got {momentum}")
        super().__init__(params, {"momentum": momentum, "orthonormal": orthonormal, "shift": shift})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One ascent step of every matrix that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for param in (each for each in group["params"] if each.grad is not None):
                ascent, state = -param.grad, self.state[param]
                if group["shift"] or (group["orthonormal"] and len(param) > param.shape[1]):
                    ascent = ascent + torch.linalg.vector_norm(ascent, dim=-1, keepdim=True) * param
                if not state:
                    state["average"] = ascent.clone()
                else:
                    state["average"].lerp_(ascent, 1 - group["momentum"])
                average = state["average"]
                param.copy_(polar(average) if group["orthonormal"] else unit(average, otherwise=param))
        return loss

    def keeps_orthonormal(self, param: Float[Tensor, "K P"]) -> bool:
        """Whether all rows of a matrix are held orthonormal to each other, so that no two can interfere."""
        return len(param) <= param.shape[1] and all(group["orthonormal"] for group in self.param_groups)

    @torch.no_grad()
    def restart_rows(self, param: Tensor, rows: list[int]) -> None:
        """Forget the past of some rows of a matrix: the average goes on from where they are now, as heavy as others."""
        average = self.state[param].get("average")
        if average is not None:
            weight = average.norm(dim=1).median()
            average[rows] = param[rows] * weight
