"""Directions held as factors: in every matrix a product of low rank, vectors whole.

Learned directions are nearly of rank one in each matrix, and K dense rows of a whole model do not fit anywhere. A row
of coordinates holds, in the order of the parameters, ``B [m, r]`` and ``C [n, r]`` of a matrix whose part of the
direction is ``B C^T``, and a vector as it is: ``K r sum(m + n)`` numbers, never ``K P``.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.curvature.parameters import ParameterSpace
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import DENSE_UP_TO, FactoredRows, Part, Rows, inner
from eigen_lightning.run.seeding import derive_seed

Side = Literal[0, 1]
"""Which factor of a matrix: 0 is B, over its rows (what a linear layer writes to), 1 is C (what it reads)."""


@dataclass(frozen=True)
class FactoredSpace:
    """Coordinates of factored directions over chosen parameters.

    Attributes:
        space: the parameters; of at most two dimensions each.
        rank: r, the most that any matrix's part may have; a smaller matrix is held at its full rank.

    Raises:
        UserError: where a parameter has more than two dimensions, or the rank is below 1.
    """

    space: ParameterSpace
    rank: int = 1

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"expected a rank of at least 1, got {self.rank}")
        deep = [name for name, shape in self.space.shape_of.items() if len(shape) > 2]
        if deep:
            raise UserError(
                f"expected matrices and vectors to hold as factors, got {deep[0]} of shape "
                f"{list(self.space.shape_of[deep[0]])}: leave it out of `parameters`, or hold directions dense"
            )

    def rank_of(self, name: str) -> int:
        """The rank at which a matrix's part is held; 0 for vectors."""
        shape = self.space.shape_of[name]
        return min(self.rank, *shape) if len(shape) == 2 else 0

    @cached_property
    def sizes(self) -> list[int]:
        """How many coordinates each parameter takes."""
        return [self.rank_of(name) * sum(shape) or torch.Size(shape).numel() for name, shape in self._shapes]

    @property
    def size(self) -> int:
        """Q, the coordinates of one direction."""
        return sum(self.sizes)

    @property
    def _shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return list(self.space.shape_of.items())

    # ------------------------------------------------------------------------------------------------- coordinates

    def split(self, rows: Float[Tensor, "K Q"]) -> dict[str, Part]:
        """Factors and vectors by parameter, as views."""
        parts: dict[str, Part] = {}
        for (name, shape), part in zip(self._shapes, rows.split(self.sizes, 1), strict=True):
            rank = self.rank_of(name)
            if rank:
                left, right = part.split([rank * shape[0], rank * shape[1]], 1)
                parts[name] = left.unflatten(1, (shape[0], rank)), right.unflatten(1, (shape[1], rank))
            else:
                parts[name] = part
        return parts

    def named(self, rows: Float[Tensor, "K Q"]) -> dict[str, Tensor]:
        """Factors as they are stored: ``NAME/writes`` is B, ``NAME/reads`` is C, ``NAME`` a vector's part."""
        named = {}
        for name, part in self.split(rows).items():
            if isinstance(part, tuple):
                named[f"{name}/writes"], named[f"{name}/reads"] = (factor.contiguous() for factor in part)
            else:
                named[name] = part.contiguous()
        return named

    def join(self, parts: dict[str, Part]) -> Float[Tensor, "K Q"]:
        """The inverse of :meth:`split`."""
        columns = [
            torch.cat([factor.flatten(1) for factor in part], 1) if isinstance(part, tuple) else part
            for part in (parts[name] for name in self.space.names)
        ]
        return torch.cat(columns, 1)

    def dense(self, rows: Float[Tensor, "K Q"]) -> Float[Tensor, "K P"]:
        """The directions as rows over all parameters: K P numbers."""
        return FactoredRows(self.split(rows))[:]

    def directions(self, rows: Float[Tensor, "K Q"]) -> Rows:
        """The directions, dense where their numbers are few enough."""
        return self.dense(rows) if len(rows) * self.space.size <= DENSE_UP_TO else FactoredRows(self.split(rows))

    def from_dense(self, rows: Float[Tensor, "K P"]) -> Float[Tensor, "K Q"]:
        """The nearest factored directions: in each matrix its leading singular vectors, C with orthonormal columns."""
        parts: dict[str, Part] = {}
        for name, part in self.space.unflatten(rows).items():
            rank = self.rank_of(name)
            if not rank:
                parts[name] = part.flatten(1)
                continue
            left, values, right = torch.linalg.svd(part.double(), full_matrices=False)
            factors = left[..., :rank] * values[:, None, :rank], right[:, :rank].mT
            parts[name] = factors[0].to(rows), factors[1].to(rows)
        return self.join(parts)

    def random(self, count: int, seed: int, *purpose: str | int) -> Float[Tensor, "count Q"]:
        """Independent directions of unit norm, float64: normal factors, C with orthonormal columns."""
        generator = torch.Generator().manual_seed(derive_seed(seed, *purpose))
        # Named, as Lightning builds modules with the accelerator as torch's default device.
        drawn = torch.randn(count, self.size, generator=generator, dtype=torch.float64, device=generator.device)
        return self.unit(self.orthonormal(drawn, 1), drawn)

    def probes(self, count: int, seed: int) -> Float[Tensor, "count Q"]:
        """Directions u of unit norm with ``E[u u^T] = 1/P``, of rank 1 in each matrix, float64: for traces.

        Signs in both factors and in vectors: entries of a product of independent signs are uncorrelated, so that
        ``P d2D(u)`` estimates the trace without bias, if with more variance than dense probes.
        """
        generator = torch.Generator().manual_seed(seed)
        scale = self.space.size**-0.5
        parts: dict[str, Part] = {}
        for name, shape in self._shapes:
            size = sum(shape) if self.rank_of(name) else torch.Size(shape).numel()
            signs = torch.randint(2, (count, size), generator=generator, device=generator.device).double() * 2 - 1
            if not self.rank_of(name):
                parts[name] = signs * scale
                continue
            left, right = signs.split(list(shape), 1)
            empty = [left.new_zeros(count, length, self.rank_of(name) - 1) for length in shape]
            parts[name] = (
                torch.cat([left[..., None] * scale, empty[0]], 2),
                torch.cat([right[..., None], empty[1]], 2),
            )
        return self.join(parts)

    # ------------------------------------------------------------------------------------------------- geometry

    def inner(self, one: Float[Tensor, "K Q"], other: Float[Tensor, "L Q"]) -> Float[Tensor, "K L"]:
        """Inner products of the directions; float64."""
        return inner(self.split(one), self.split(other))

    def norm(self, rows: Float[Tensor, "K Q"]) -> Float[Tensor, " K"]:
        """Norms of the directions over all parameters, float64."""
        total = rows.new_zeros(len(rows), dtype=torch.float64)
        for part in self.split(rows.double()).values():
            if isinstance(part, tuple):
                total += ((part[0].mT @ part[0]) * (part[1].mT @ part[1])).sum((1, 2))
            else:
                total += part.square().sum(1)
        # Rounding may leave a zero slightly below.
        return total.clamp_min(0).sqrt()

    def cosines(self, rows: Float[Tensor, "K Q"]) -> Float[Tensor, "K K"]:
        """``cos(u_k, u_l)`` of every pair, float64; 0 with a row of norm 0."""
        norm = self.norm(rows).clamp_min(torch.finfo(torch.float64).tiny)
        return self.inner(rows, rows) / (norm[:, None] * norm)

    def unit(self, rows: Float[Tensor, "K Q"], otherwise: Float[Tensor, "K Q"], side: Side = 0) -> Float[Tensor, "K Q"]:
        """Directions scaled to norm 1 by one factor and the vectors; where one is zero, the row of ``otherwise``."""
        norm = self.norm(rows)
        scale = 1 / norm.clamp_min(torch.finfo(torch.float64).tiny)
        parts = self.split(rows.double())
        for name, part in parts.items():
            if isinstance(part, tuple):
                scaled = part[side] * scale[:, None, None]
                parts[name] = (scaled, part[1]) if side == 0 else (part[0], scaled)
            else:
                parts[name] = part * scale[:, None]
        return torch.where((norm > 0)[:, None], self.join(parts).to(rows.dtype), otherwise)

    def orthonormal(self, rows: Float[Tensor, "K Q"], side: Side) -> Float[Tensor, "K Q"]:
        """The same directions, one factor of each matrix with orthonormal columns and the other carrying the norm."""
        parts = self.split(rows.double())
        for name, part in parts.items():
            if isinstance(part, tuple):
                basis, triangle = torch.linalg.qr(part[side])
                # The sign that keeps a column where it was, so that averages over steps do not cancel.
                sign = torch.where(triangle.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0).to(basis)
                basis, other = basis * sign[:, None], part[1 - side] @ (triangle * sign[:, :, None]).mT
                parts[name] = (basis, other) if side == 0 else (other, basis)
        return self.join(parts).to(rows.dtype)

    def moved(self, rows: Float[Tensor, "K Q"], gradient: Float[Tensor, "K Q"], side: Side) -> Float[Tensor, "K Q"]:
        """One factor, and the vectors, replaced by the gradient by them; the other factor is held.

        With C orthonormal the gradient by B is ``G C``, G the dense gradient that is never formed, and ``(G C) C^T`` is
        the projection of G on what C spans: the power step of free rows, one side at a time.

        Args:
            rows: directions, the factor other than ``side`` with orthonormal columns.
            gradient: of an objective to be raised, by the coordinates.
            side: the factor that moves.
        """
        parts, new = self.split(rows), self.split(gradient)
        for name, part in parts.items():
            replaced = new[name]
            if isinstance(part, tuple):
                parts[name] = (replaced[0], part[1]) if side == 0 else (part[0], replaced[1])
            else:
                parts[name] = replaced
        return self.join(parts)

    def mixed(self, weights: Float[Tensor, "K K"], rows: Float[Tensor, "K Q"], side: Side) -> Float[Tensor, "K Q"]:
        """``sum_l weights[k, l] u_l`` of every k, projected on what the factor of u_k that is held spans; float64.

        Args:
            weights: of the sums.
            rows: directions, the factor other than ``side`` with orthonormal columns.
            side: the factor that changes.
        """
        parts, weights = self.split(rows.double()), weights.double()
        for name, part in parts.items():
            if isinstance(part, tuple):
                held = part[1 - side]
                of_others = torch.einsum("lnr,kns->klrs", held, held) * weights[:, :, None, None]
                changed = torch.einsum("klrs,lmr->kms", of_others, part[side])
                parts[name] = (changed, held) if side == 0 else (held, changed)
            else:
                parts[name] = weights @ part
        return self.join(parts)

    def settled(self, rows: Float[Tensor, "K Q"], otherwise: Float[Tensor, "K Q"], side: Side) -> Float[Tensor, "K Q"]:
        """Unit directions, the side just moved with orthonormal columns, ready for a step of the other.

        Args:
            rows: directions of any norm.
            otherwise: what a row of norm 0 stays.
            side: the factor that moved.
        """
        return self.orthonormal(self.unit(rows, otherwise, side).to(otherwise), side)
