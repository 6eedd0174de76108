"""Inputs of several tensors in the place of one: what the core does with a batch's inputs, for a dict or a tuple.

It lies on the ground because data makes such inputs and targets take them apart, and neither knows the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TensorTree:
    """Tensors with a common first dimension, the samples.

    ``len``, indexing by samples, ``to``, ``numel``, ``device`` and ``torch.cat`` work as on one tensor.

    Attributes:
        parts: each tensor, ``[batch, ...]``.
        names: of the parts where they came as a dict; None where they came as a tuple.
    """

    parts: tuple[Tensor, ...]
    names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, inputs: Mapping[str, Tensor] | Sequence[Tensor]) -> "TensorTree":
        """Of a dict, a tuple or a list of tensors."""
        if isinstance(inputs, Mapping):
            return cls(tuple(inputs.values()), tuple(inputs))
        return cls(tuple(inputs))

    @property
    def value(self) -> dict[str, Tensor] | tuple[Tensor, ...]:
        """As the network takes it: a dict or a tuple."""
        return self.parts if self.names is None else dict(zip(self.names, self.parts, strict=True))

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    def to(self, *args: Any, **kwargs: Any) -> "TensorTree":
        """As :meth:`torch.Tensor.to`; numbers that are no floating-point ones keep their dtype."""
        dtypes = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, torch.dtype)]
        if not dtypes:
            return self._map(lambda part: part.to(*args, **kwargs))
        return self._map(lambda part: part.to(*args, **kwargs) if part.is_floating_point() else part)

    def numel(self) -> int:
        """Numbers in all parts together."""
        return sum(part.numel() for part in self.parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, samples: Any) -> "TensorTree":
        return self._map(lambda part: part[samples])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "TensorTree":
        return TensorTree(tuple(map(change, self.parts)), self.names)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.cat or kwargs or len(args) != 1:
            return NotImplemented
        trees: list[TensorTree] = args[0]
        return cls(tuple(map(torch.cat, zip(*(tree.parts for tree in trees), strict=True))), trees[0].names)
