"""Steepness on the parts of a batch, one after another, where every sample's Hessian is written out."""

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.curvature.factor import Factor


class PartwiseSteepness:
    """For each part a weighted sum over its samples of squared curvatures, with its gradient in closed form.

    Five operations without a graph, in memory that all parts share: where a network is tiny, autograd's bookkeeping and
    the allocator cost more than the numbers.

    Args:
        factor: of the samples' Hessians, ``[P, n, parts, samples]``.
        weights: of the samples' squared curvatures, none of them negative.
        n_directions: K.
    """

    def __init__(self, factor: Factor, weights: Float[Tensor, "parts samples"], n_directions: int) -> None:
        size, outputs, parts, samples = factor.matrix.shape
        # Steepness is of fourth order in the factor, which takes in the weights and the gradient's 4.
        scaled = factor.matrix * (4 * weights).sqrt().sqrt()
        self._matrices = scaled.movedim(2, 0).reshape(parts, size, outputs * samples).unbind()
        self._tangents = scaled.new_empty(n_directions, outputs * samples)
        self._by_output = self._tangents.view(n_directions, outputs, samples)
        self._squares = torch.empty_like(self._by_output)
        self._curvature = scaled.new_empty(n_directions, 1, samples)
        self._gradient = scaled.new_empty(n_directions, size)

    def __len__(self) -> int:
        return len(self._matrices)

    def value(self, part: int, directions: Float[Tensor, "K P"]) -> Float[Tensor, ""]:
        """``sum_ks w[s] d[k, s]^2`` over the samples of a part; without gradient."""
        self._evaluate(part, directions)
        return self._curvature.square().sum() / 4

    def gradient(self, part: int, directions: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        """The derivative by the directions, ``4 sum_s w[s] d[k, s] H_s u_k``; the next call writes over it."""
        self._evaluate(part, directions)
        self._by_output.mul_(self._curvature)
        return torch.mm(self._tangents, self._matrices[part].T, out=self._gradient)

    def _evaluate(self, part: int, directions: Tensor) -> None:
        torch.mm(directions, self._matrices[part], out=self._tangents)
        torch.mul(self._by_output, self._by_output, out=self._squares)
        torch.sum(self._squares, 1, True, out=self._curvature)
