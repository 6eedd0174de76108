"""Polar ascent: the optimizer that maximizes steepness over orthonormal directions."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from eigen_lightning.errors import UserError


def polar_rows(matrix: Float[Tensor, "*batch K P"]) -> Float[Tensor, "*batch K P"]:
    """The nearest matrix with orthonormal rows, in groups of at most P rows.

    Args:
        matrix: K rows; where K > P they are cut in equal groups, each orthonormal within itself.
    """
    rows, width = matrix.shape[-2:]
    groups = -(-rows // width)
    return torch.cat([_polar(part) for part in matrix.chunk(groups, dim=-2)], dim=-2)


def _polar(matrix: Float[Tensor, "*batch k P"]) -> Float[Tensor, "*batch k P"]:
    scale = torch.linalg.matrix_norm(matrix, keepdim=True)
    left, _, right = torch.linalg.svd(matrix / torch.where(scale > 0, scale, 1), full_matrices=False)
    return left @ right


class PolarAscent(Optimizer):
    """``U <- polar(average gradient)``: no learning rate, rows orthonormal after every step.

    With unit rows steepness is an l4 norm, convex in U, so that each step on a fixed set of samples can only raise
    it: the generalized power step of matching, stretching and projection (Zhai et al., "Complete dictionary learning
    via l4-norm maximization over the orthogonal group", JMLR 2020, algorithm 2). Batches are averaged exponentially.

    Like every torch optimizer it takes gradients of a loss to be minimized, here minus the steepness.

    Args:
        params: matrices ``[K, P]`` of directions.
        momentum: weight of the past in the average of gradients, in [0, 1).

    Raises:
        UserError: where momentum is outside [0, 1).
    """

    def __init__(self, params: Iterable[Any], momentum: float = 0.9) -> None:
        if not 0 <= momentum < 1:
            raise UserError(f"expected momentum in [0, 1), got {momentum}")
        super().__init__(params, {"momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One ascent step of every matrix that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["average"] = param.grad.neg()
                else:
                    state["average"].lerp_(-param.grad, 1 - group["momentum"])
                param.copy_(polar_rows(state["average"]))
        return loss

    @torch.no_grad()
    def restart_rows(self, param: Tensor, rows: list[int]) -> None:
        """Forget the past of some rows of a matrix: the average goes on from where they are now, as heavy as others."""
        average = self.state[param].get("average")
        if average is not None:
            weight = average.norm(dim=1).median()
            average[rows] = param[rows] * weight
