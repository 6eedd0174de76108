"""U held as factors: a matrix ``[K, P]`` whose rows are written out when they are asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.run.errors import UserError

DENSE_UP_TO = 2**28
"""Numbers K P up to which U is held and kept dense: 1 GiB."""

ASKED_UP_TO = 2**30
"""Numbers K P up to which U is written out whole for what asks for it: 4 GiB."""

ROWS_OF = 2**24
"""Numbers in the rows that :func:`blocks` writes out at a time."""

Part = Tensor | tuple[Tensor, Tensor]
"""What directions hold of one parameter: ``(B [K, m, r], C [K, n, r])`` of a matrix, ``[K, size]`` of a vector."""


@dataclass(frozen=True, eq=False)
class FactoredRows:
    """Directions whose part in a matrix is ``B C^T``: ``U[k]``, ``U[2:5]`` and ``U[[1, 3]]`` are dense.

    Attributes:
        parts: by parameter, in the order of P.
    """

    parts: Mapping[str, Part]

    @property
    def shape(self) -> torch.Size:
        """K and P."""
        sizes = [
            part[0].shape[1] * part[1].shape[1] if isinstance(part, tuple) else part.shape[1]
            for part in self.parts.values()
        ]
        return torch.Size((len(self), sum(sizes)))

    @property
    def device(self) -> torch.device:
        """Where the factors are."""
        return self._first.device

    def __len__(self) -> int:
        return len(self._first)

    @property
    def _first(self) -> Tensor:
        part = next(iter(self.parts.values()))
        return part[0] if isinstance(part, tuple) else part

    def __getitem__(self, index: int | slice | Sequence[int]) -> Tensor:
        if isinstance(index, int):
            return self[[index]][0]
        columns = [
            (part[0][index] @ part[1][index].mT).flatten(1) if isinstance(part, tuple) else part[index]
            for part in self.parts.values()
        ]
        return torch.cat(columns, 1)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[k] for k in range(len(self)))


Rows = Tensor | FactoredRows
"""U ``[K, P]``: dense, or written out row by row."""


def inner(one: Mapping[str, Part], other: Mapping[str, Part]) -> Float[Tensor, "K L"]:
    """Inner products of two sets of directions, ``<B C^T, B' C'^T> = sum (B^T B') * (C^T C')``; float64."""
    total: Tensor | float = 0.0
    for name, part in one.items():
        them = other[name]
        if isinstance(part, tuple):
            pairs = zip(part, them, strict=True)
            left, right = (torch.einsum("kmr,lms->klrs", a.double(), b.double()) for a, b in pairs)
            total = total + (left * right).sum((2, 3))
        else:
            assert isinstance(them, Tensor)
            total = total + part.double() @ them.double().T
    assert isinstance(total, Tensor)
    return total


def isometric(rows: Rows) -> Float[Tensor, "K n"]:
    """Rows with the inner products of the directions: themselves where dense, else K numbers each, float64."""
    if isinstance(rows, Tensor):
        return rows
    values, vectors = torch.linalg.eigh(inner(rows.parts, rows.parts))
    return vectors * values.clamp_min(0).sqrt()


def blocks(rows: Rows) -> Iterator[Float[Tensor, "k P"]]:
    """All directions in order, some dense rows at a time."""
    at_once = max(1, ROWS_OF // max(1, rows.shape[1]))
    return (rows[first : first + at_once] for first in range(0, len(rows), at_once))


def dense(rows: Rows, purpose: str) -> Float[Tensor, "K P"]:
    """All directions as one matrix.

    Args:
        rows: U.
        purpose: what needs it, for the error.

    Raises:
        UserError: where its numbers are too many.
    """
    if isinstance(rows, Tensor):
        return rows
    check_dense(rows.shape[0], rows.shape[1], purpose)
    return rows[:]


def check_dense(count: int, size: int, purpose: str) -> None:
    """Refuse what needs dense rows where there are too many.

    Args:
        count: K.
        size: P.
        purpose: what needs them.

    Raises:
        UserError: where K P is above :data:`ASKED_UP_TO`.
    """
    if count * size > ASKED_UP_TO:
        raise UserError(
            f"expected at most {ASKED_UP_TO:,} numbers in U for {purpose}, which needs dense rows, got {count:,} "
            f"directions of {size:,}: leave it out, or decompose fewer parameters or directions"
        )
