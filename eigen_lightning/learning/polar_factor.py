"""The polar factor of a matrix by its Gram matrix, which processes that share out its columns can sum."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 2**20
"""Numbers that are in double precision at a time."""

MAX_STEPS = 8

Sum = Callable[[Tensor], Tensor]
"""The sum of a small tensor over the processes that share out the columns, in place; the tensor itself for one."""


def gram(matrix: Float[Tensor, "k p"], total: Sum = lambda tensor: tensor) -> Float[Tensor, "k k"]:
    """``M M^T``, float64, of the matrix of which this process has some columns."""
    result = matrix.new_zeros(len(matrix), len(matrix), dtype=torch.float64)
    for part in _blocks(matrix):
        wide = part.double()
        result.addmm_(wide, wide.T)
    return total(result)


def make_polar(matrix: Float[Tensor, "k p"], columns: slice, width: int, total: Sum = lambda tensor: tensor) -> None:
    """``(M M^T)^(-1/2) M`` in place; where rows depend on each other, any unit rows orthogonal to the others.

    More exact than a singular value decomposition in float32, and faster. Squaring loses half of the digits of small
    singular values; Newton-Schulz steps on the result, which has the same polar factor, give them back.

    Args:
        matrix: k <= P rows; the columns that this process has.
        columns: which of all P these are.
        width: P.
        total: the sum over processes.

    Source: Bjoerck and Bowie, "An iterative algorithm for computing the best estimate of an orthogonal matrix", 1971.
    """
    values, vectors = torch.linalg.eigh(gram(matrix, total))
    # Below, there is nothing but rounding, in float32 as well as in the Gram matrix of doubles.
    kept = values > len(values) * 1e-15 * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    root = torch.where(kept, values, torch.inf).rsqrt()
    _multiply((vectors * root) @ vectors.T, matrix)
    if not kept.all():
        _complete(matrix, vectors[:, ~kept], columns, width, total)
    identity = torch.eye(len(matrix), dtype=values.dtype, device=values.device)
    tolerance = max(4 * torch.finfo(matrix.dtype).eps, 1e-15 * len(matrix))
    for _ in range(MAX_STEPS):
        found = gram(matrix, total)
        if (found - identity).abs().amax() < tolerance:
            return
        _multiply(1.5 * identity - 0.5 * found, matrix)


def _complete(matrix: Float[Tensor, "k p"], null: Float[Tensor, "k r"], columns: slice, width: int, total: Sum) -> None:
    """Add unit rows orthogonal to the span of all rows, along left vectors that the matrix has nothing in."""
    generator = torch.Generator().manual_seed(0)
    # Drawn for all columns, so that they do not depend on how many processes there are.
    fresh = torch.stack([torch.randn(width, generator=generator)[columns] for _ in range(null.shape[1])]).to(matrix)
    # Twice, as the first time leaves the rounding of what it took away.
    for _ in range(2):
        fresh -= total(fresh @ matrix.T) @ matrix
    values, vectors = torch.linalg.eigh(gram(fresh, total))
    _multiply((vectors * values.rsqrt()) @ vectors.T, fresh)
    matrix += null.to(matrix) @ fresh


def _blocks(matrix: Tensor) -> Iterator[Tensor]:
    yield from matrix.split(max(1, BLOCK // max(1, len(matrix))), dim=1)


def _multiply(factor: Float[Tensor, "k k"], matrix: Float[Tensor, "k p"]) -> None:
    """``factor @ matrix`` in place, in double precision."""
    for part in _blocks(matrix):
        part.copy_(factor @ part.double())
