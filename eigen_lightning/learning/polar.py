"""Polar ascent: the optimizer that maximizes steepness over orthonormal directions."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from scipy.linalg.lapack import dgesdd
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from eigen_lightning.learning.polar_factor import make_polar
from eigen_lightning.learning.shared_rows import SharedRows, as_dtensor
from eigen_lightning.run.errors import UserError

SMALL = 64
"""P up to which a singular value decomposition takes no longer than what replaces it."""


def polar_rows(matrix: Float[Tensor, "*batch K P"]) -> Float[Tensor, "*batch K P"]:
    """The nearest matrix with orthonormal rows, in groups of at most P rows.

    Args:
        matrix: K rows; where K > P they are cut in equal groups, each orthonormal within itself. Rows shared out among
            processes stay so.
    """
    if isinstance(matrix, DTensor):
        shared = SharedRows(matrix.device_mesh.get_group(), *matrix.shape)
        return as_dtensor(shared.polar(matrix.to_local()), matrix.device_mesh, matrix.shape)
    rows, width = matrix.shape[-2:]
    groups = -(-rows // width)
    # Decompositions run one after another on accelerators; products do not.
    on_cpu: Callable[[Tensor], Tensor] = by_svd if width <= SMALL else by_gram
    polar = on_cpu if matrix.device.type == "cpu" else by_newton_schulz
    if groups == 1:
        return polar(matrix)
    return torch.cat([polar(part) for part in matrix.chunk(groups, dim=-2)], dim=-2)


def by_gram(matrix: Float[Tensor, "*batch k P"]) -> Float[Tensor, "*batch k P"]:
    """The polar factor of k <= P rows by products and a k x k eigenvalue decomposition, see :func:`make_polar`."""
    found = matrix.clone()
    for each in found.view(-1, *found.shape[-2:]):
        make_polar(each, slice(None), found.shape[-1])
    return found


def by_svd(matrix: Float[Tensor, "*batch k P"]) -> Float[Tensor, "*batch k P"]:
    """The polar factor of k <= P rows, exact; a zero row becomes any unit row orthogonal to the others.

    In float64: in float32 the last bit of the matrix, which depends on the number of processes, comes back as several.
    """
    if matrix.ndim == 2 and matrix.device.type == "cpu":
        # LAPACK without what torch puts around it: on a toy that is half of the decomposition.
        left, _, right, failed = dgesdd(matrix.double().numpy(), full_matrices=0)
        if not failed:
            return torch.from_numpy(left @ right).to(matrix)
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (left @ right).to(matrix)


def by_newton_schulz(matrix: Float[Tensor, "*batch k P"], max_steps: int = 60) -> Float[Tensor, "*batch k P"]:
    """The polar factor of k <= P rows by matrix products alone.

    Each step maps a singular value s to ``s (3 - s^2) / 2``: it grows by half while small and doubles its correct
    digits near 1. Rows too dependent on each other for that (condition above about 1e8) are left to :func:`by_svd`.

    Source: Bjoerck and Bowie, "An iterative algorithm for computing the best estimate of an orthogonal matrix", 1971.
    """
    rows = matrix.shape[-2]
    identity = torch.eye(rows, dtype=matrix.dtype, device=matrix.device)
    tolerance = 8 * torch.finfo(matrix.dtype).eps * rows
    found = _scaled(matrix)
    for step in range(max_steps):
        gram = found @ found.mT
        # Each look at the error waits for the device; the first steps cannot suffice.
        if step >= 8 and step % 4 == 0 and (gram - identity).abs().amax() < tolerance:
            return found
        found = 1.5 * found - 0.5 * gram @ found
    return by_svd(matrix)


def _scaled(matrix: Tensor) -> Tensor:
    scale = torch.linalg.matrix_norm(matrix, keepdim=True)
    return matrix / torch.where(scale > 0, scale, 1)


class PolarAscent(Optimizer):
    """``U <- polar(average gradient)``: no learning rate, rows orthonormal after every step.

    With unit rows steepness is an l4 norm, convex in U, so that each step on a fixed set of samples can only raise
    it: the generalized power step of matching, stretching and projection (Zhai et al., "Complete dictionary learning
    via l4-norm maximization over the orthogonal group", JMLR 2020, algorithm 2). Batches are averaged exponentially.

    Like every torch optimizer it takes gradients of a loss to be minimized, here minus the steepness. Where it also
    takes the steps of stage 2 (``stage2: null``), the average is that of both losses and the step the power step of
    their sum: this is how groups of rows are kept apart where K > P, and rows where they are released.

    Args:
        params: matrices ``[K, P]`` of directions.
        momentum: weight of the past in the average of gradients, in [0, 1).
        release_after: steps after which rows are no longer held orthonormal; each is then a unit vector that follows
            its own average, and stage 2 alone keeps them apart. For features whose true directions overlap; null
            holds them orthonormal for good.

    Raises:
        UserError: where a number is out of range.
    """

    def __init__(self, params: Iterable[Any], momentum: float = 0.9, release_after: int | None = None) -> None:
        if not 0 <= momentum < 1:
            raise UserError(f"expected momentum in [0, 1), got {momentum}")
        if release_after is not None and release_after < 1:
            raise UserError(f"expected release_after of at least 1 step, got {release_after}; null never releases")
        super().__init__(params, {"momentum": momentum, "release_after": release_after})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One ascent step of every matrix that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                self.ascend(param, [-param.grad])
        return loss

    @torch.no_grad()
    def ascend(self, param: Float[Tensor, "K P"], ascents: Iterable[Float[Tensor, "K P"]]) -> None:
        """Steps of one matrix, without the hooks that torch puts around :meth:`step`: half of a step's time on a toy.

        Args:
            param: the matrix.
            ascents: for each step the gradient of what is to be maximized; the next is asked for once a step is done.
        """
        group, state = self._group(param), self.state[param]
        in_groups = len(param) > param.shape[1]
        for ascent in ascents:
            released = self._past(group, state)
            if released or in_groups:
                # The shift keeps the step an ascent where interference makes the objective concave.
                ascent = ascent + ascent.norm(dim=-1, keepdim=True) * param
            if not state:
                state.update(step=0, average=ascent.clone())
            else:
                state["average"].lerp_(ascent, 1 - group["momentum"])
            average = state["average"]
            param.copy_(torch.nn.functional.normalize(average, dim=-1) if released else polar_rows(average))
            state["step"] += 1

    def released(self, param: Tensor) -> bool:
        """Whether the rows of a matrix are no longer held orthonormal."""
        return self._past(self._group(param), self.state.get(param, {}))

    def _group(self, param: Tensor) -> dict[str, Any]:
        return next(group for group in self.param_groups if any(param is each for each in group["params"]))

    @staticmethod
    def _past(group: dict[str, Any], state: dict[str, Any]) -> bool:
        after = group["release_after"]
        return after is not None and state.get("step", 0) >= after

    def excludes_interference(self, param: Float[Tensor, "K P"]) -> bool:
        """Whether all rows of a matrix are held orthonormal to each other, so that no two can interfere."""
        return len(param) <= param.shape[1] and not self.released(param)

    @torch.no_grad()
    def restart_rows(self, param: Tensor, rows: list[int]) -> None:
        """Forget the past of some rows of a matrix: the average goes on from where they are now, as heavy as others."""
        average = self.state[param].get("average")
        if average is not None:
            weight = average.norm(dim=1).median()
            average[rows] = param[rows] * weight
