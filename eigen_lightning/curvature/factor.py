"""Curvature of few parameters, written out: every sample's Hessian as a product of a matrix with its transpose."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

EXPLICIT_UP_TO = 64
"""P, and numbers of outputs, up to which the Jacobian of a batch is written out: one small product then replaces a pass
through the network."""


@dataclass(frozen=True)
class Factor:
    """``H_s = A_s A_s^T`` for each sample, so that ``d2D[k, s] = |u_k A_s|^2``.

    Attributes:
        matrix: A, ``[P, n, *samples]``: samples last, which is how sums over n are fast.
    """

    matrix: Float[Tensor, "P n *samples"]

    def curvature(self, directions: Float[Tensor, "K P"]) -> Float[Tensor, "K *samples"]:
        """d2D of directions; differentiable in them."""
        tangents = directions @ self.matrix.flatten(1)
        return tangents.view(len(directions), *self.matrix.shape[1:]).square().sum(1)

    def trace(self) -> Float[Tensor, "*samples"]:
        """The trace of every sample's Hessian."""
        return self.matrix.flatten(0, 1).square().sum(0)

    def unflatten(self, shape: tuple[int, ...]) -> "Factor":
        """The same with its samples in another shape."""
        return Factor(self.matrix.unflatten(-1, shape))
