"""What a collated batch of a person's own holds: inputs and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from eigen_lightning.run.errors import UserError, nearest
from eigen_lightning.run.tensor_tree import TensorTree

Inputs = Tensor | TensorTree
Which = str | int | Sequence[str] | Sequence[int]

LABELS = ("label", "labels", "target", "targets", "y", "class")
"""Keys of a dict that are taken for labels."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples as one batch.

    Attributes:
        inputs: what the network takes.
        labels: one a sample; None where there are none.
    """

    inputs: Inputs
    labels: Any = None

    def label(self, index: int) -> str | None:
        """A label in a word; None where there is none, or it is no single number or word."""
        if self.labels is None:
            return None
        label = self.labels[index]
        if isinstance(label, Tensor):
            return str(label.item()) if label.numel() == 1 else None
        return str(label)


def rows_of(batch: Any, which: Which | None) -> Rows:
    """Inputs and labels of a collated batch.

    Args:
        batch: a tensor, tuple, list or dict.
        which: the inputs' key or index, or several; None takes, of a dict, all tensors but labels, of a tuple all but
            the last, and of a single tensor itself.

    Raises:
        UserError: where nothing in it can be an input.
    """
    if isinstance(batch, Tensor):
        return Rows(batch)
    parts: dict[Any, Any]
    if isinstance(batch, Mapping):
        parts = dict(batch)
        default = [name for name, part in parts.items() if isinstance(part, Tensor) and name not in LABELS]
        others = [name for name in parts if name in LABELS]
    elif isinstance(batch, tuple | list):
        parts = dict(enumerate(batch))
        default = list(parts)[:-1] if len(parts) > 1 else list(parts)
        others = list(parts)[len(default) :]
    else:
        raise UserError(f"expected samples that are tensors, tuples or dicts, got {type(batch).__name__}")
    several = which is not None and not isinstance(which, str | int)
    chosen: list[Any] = default if which is None else list(which) if several else [which]  # type: ignore[arg-type]
    for name in chosen:
        if not isinstance(parts.get(name), Tensor):
            raise UserError(
                f"expected `inputs` to name tensors among {', '.join(map(repr, parts))}, got {name!r}"
                f"{nearest(str(name), map(str, parts)) if name not in parts else ', which is none'}"
            )
    if not chosen:
        raise UserError(f"expected samples with a tensor, got only {', '.join(map(repr, parts))}")
    labels = next((parts[name] for name in others if name not in chosen), None)
    if len(chosen) == 1 and not several:
        return Rows(parts[chosen[0]], labels)
    inputs = {name: parts[name] for name in chosen}
    return Rows(TensorTree.of(inputs if isinstance(batch, Mapping) else tuple(inputs.values())), labels)
