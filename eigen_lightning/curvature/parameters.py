"""Names and patterns to parameters; a dict of tensors to one flat vector and back."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.run.errors import UserError, nearest


@dataclass(frozen=True)
class ParameterSpace:
    """The space of the chosen parameters: P numbers in a documented order.

    The order is that of ``names``; within a parameter, row-major over its own shape.

    Attributes:
        names: the parameters as a person names them.
        shapes: their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def select(cls, available: Mapping[str, Tensor], patterns: Sequence[str]) -> "ParameterSpace":
        """Choose parameters by name or glob pattern, in the order in which the network has them.

        Args:
            available: every parameter of the network by name.
            patterns: names or globs such as ``blocks.*.attn.W_K``.

        Raises:
            UserError: where there is no pattern, or one matches nothing.
        """
        if not patterns:
            raise UserError("expected at least one parameter name or pattern, got none; name some in `parameters`")
        chosen: set[str] = set()
        for pattern in patterns:
            matched = fnmatch.filter(available, pattern)
            if not matched:
                hint = nearest(pattern, available) or f"; the network has {', '.join(list(available)[:8])}, ..."
                raise UserError(f"expected a parameter name or pattern, got {pattern!r}, which matches nothing{hint}")
            chosen.update(matched)
        names = tuple(name for name in available if name in chosen)
        return cls(names, tuple(tuple(available[name].shape) for name in names))

    @property
    def shape_of(self) -> dict[str, tuple[int, ...]]:
        """Shape by name, in the order of P."""
        return dict(zip(self.names, self.shapes, strict=True))

    @property
    def sizes(self) -> list[int]:
        """How many numbers each parameter holds."""
        return [torch.Size(shape).numel() for shape in self.shapes]

    @property
    def size(self) -> int:
        """P, how many numbers there are in all."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "*rows P"]:
        """One flat vector of each set of tensors; leading dimensions beyond a parameter's own shape stay in front."""
        parts = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            tensor = tensors[name]
            parts.append(tensor.reshape(*tensor.shape[: tensor.ndim - len(shape)], -1))
        return torch.cat(parts, dim=-1)

    def unflatten(self, vector: Float[Tensor, "*rows P"]) -> dict[str, Tensor]:
        """The inverse of :meth:`flatten`."""
        parts = vector.split(self.sizes, dim=-1)
        return {
            name: part.reshape(vector.shape[:-1] + shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }
