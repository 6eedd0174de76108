"""Steepness on the parts of a batch, one after another, where every sample's Hessian is written out."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.curvature.factor import Factor


class PartwiseSteepness:
    """For each part a weighted sum over its samples of squared curvatures, with its gradient in closed form.

    Five operations without a graph, in memory that all parts share. Where a network is tiny a call costs more than the
    numbers, so that on CPUs they are made by NumPy, at half of what torch takes for each.

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
        self._in_numpy: InNumPy | None = None
        # NumPy has no bfloat16.
        if scaled.device.type == "cpu" and scaled.dtype.itemsize >= 4:
            buffers = (self._tangents, self._by_output, self._squares, self._curvature, self._gradient)
            self._in_numpy = InNumPy(self._matrices, *buffers)

    def __len__(self) -> int:
        return len(self._matrices)

    def value(self, part: int, directions: Float[Tensor, "K P"]) -> Float[Tensor, ""]:
        """``sum_ks w[s] d[k, s]^2`` over the samples of a part; without gradient."""
        self.gradient(part, directions)
        return self._curvature.square().sum() / 4

    def gradient(self, part: int, directions: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        """The derivative by the directions, ``4 sum_s w[s] d[k, s] H_s u_k``; the next call writes over it."""
        if self._in_numpy is not None:
            self._in_numpy.run(part, directions)
            return self._gradient
        torch.mm(directions, self._matrices[part], out=self._tangents)
        torch.mul(self._by_output, self._by_output, out=self._squares)
        torch.sum(self._squares, 1, True, out=self._curvature)
        self._by_output.mul_(self._curvature)
        return torch.mm(self._tangents, self._matrices[part].T, out=self._gradient)


class InNumPy:
    """The same five operations on the same memory.

    Args:
        matrices: of each part.
        buffers: tangents, the same by output, their squares, curvature and gradient.
    """

    def __init__(self, matrices: tuple[Tensor, ...], *buffers: Tensor) -> None:
        self._matrices = [matrix.numpy() for matrix in matrices]
        self._buffers = [buffer.numpy() for buffer in buffers]

    def run(self, part: int, directions: Tensor) -> None:
        """Fill curvature and gradient."""
        matrix = self._matrices[part]
        tangents, by_output, squares, curvature, gradient = self._buffers
        np.matmul(directions.numpy(), matrix, out=tangents)
        np.multiply(by_output, by_output, out=squares)
        np.add.reduce(squares, axis=1, keepdims=True, out=curvature)
        np.multiply(by_output, curvature, out=by_output)
        np.matmul(tangents, matrix.T, out=gradient)
