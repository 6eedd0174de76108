"""Uses of chosen matrices in a pass of a network: recorded, and perturbed.

A matrix is found by the identity of its tensor wherever it enters a linear layer, a matrix product or a lookup.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Kind = Literal["x W^T", "x W", "rows of W"]
"""How a matrix is used: as a linear layer has it, as a right factor, as a table."""

TRANSPOSES = (torch.t, Tensor.t, Tensor.T.__get__, Tensor.mT.__get__, torch.transpose, Tensor.transpose)  # type: ignore[attr-defined]
PRODUCTS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)


@dataclass(frozen=True)
class Use:
    """One use of a chosen matrix in a pass.

    Attributes:
        name: of the parameter.
        kind: how it is used.
        inputs: x, or the rows that are looked up.
        shape: of what comes out.
        dtype: of what comes out.
    """

    name: str
    kind: Kind
    inputs: Tensor
    shape: torch.Size
    dtype: torch.dtype

    def tangent(self, left: Float[Tensor, "k m r"], right: Float[Tensor, "k n r"]) -> Float[Tensor, "k *out"]:
        """What directions ``left @ right^T`` do to what comes out, to first order."""
        if self.kind == "rows of W":
            through = left[:, self.inputs]
            return torch.einsum("k...r,knr->k...n", through, right)
        reads, writes = (right, left) if self.kind == "x W^T" else (left, right)
        return torch.einsum("k...r,kmr->k...m", torch.einsum("...n,knr->k...r", self.inputs, reads), writes)


class _Uses(TorchFunctionMode):
    """Finds uses of tensors by identity; records them, or adds the perturbations it was given, in order."""

    def __init__(self, names: Mapping[int, str], perturbations: list[Tensor] | None = None) -> None:
        super().__init__()
        self.names, self.perturbations = names, perturbations
        self.uses: list[Use] = []
        # By identity, and held so that an identity is not given to another tensor meanwhile.
        self._transposed: dict[int, tuple[str, Tensor]] = {}
        self._count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in TRANSPOSES and id(args[0]) in self.names and isinstance(result, Tensor):
            self._transposed[id(result)] = (self.names[id(args[0])], result)
            return result
        use = self._use(func, args, kwargs)
        if use is None:
            return result
        name, kind, inputs = use
        if self.perturbations is None:
            self.uses.append(Use(name, kind, inputs.detach(), result.shape, result.dtype))
            return result
        self._count += 1
        return result + self.perturbations[self._count - 1]

    def _use(self, func: Any, args: Any, kwargs: Any) -> tuple[str, Kind, Tensor] | None:
        if func is functional.linear:
            return self._multiplied(args[0], args[1] if len(args) > 1 else kwargs["weight"], "x W^T", "x W")
        if func in PRODUCTS:
            return self._multiplied(args[0], args[1], "x W", "x W^T")
        if func in (torch.addmm, Tensor.addmm):
            return self._multiplied(args[1], args[2], "x W", "x W^T")
        if func is functional.embedding and id(args[1]) in self.names:
            return self.names[id(args[1])], "rows of W", args[0]
        return None

    def _multiplied(self, inputs: Any, weight: Any, plain: Kind, transposed: Kind) -> tuple[str, Kind, Tensor] | None:
        if id(weight) in self.names:
            return self.names[id(weight)], plain, inputs
        if id(weight) in self._transposed:
            return self._transposed[id(weight)][0], transposed, inputs
        return None


@dataclass(frozen=True)
class PerturbedNetwork:
    """A network as a function of perturbations: one added to what comes out of each use of a matrix, in the order of
    the pass, and one added to each vector; all as one flat row.

    Attributes:
        run: ``(weights, inputs) -> outputs``.
        weights: all of them, at W0.
        matrices: which of them are found by their uses.
        vectors: which of them are perturbed themselves.
        uses: shape and dtype of what comes out of each use.
    """

    run: Callable[..., Tensor]
    weights: Mapping[str, Tensor]
    matrices: Sequence[str]
    vectors: Sequence[str]
    uses: Sequence[tuple[torch.Size, torch.dtype]]

    @property
    def sizes(self) -> list[int]:
        """How many numbers of the row each perturbation takes."""
        return [shape.numel() for shape, _ in self.uses] + [self.weights[name].numel() for name in self.vectors]

    def __call__(self, perturbations: Float[Tensor, " n"], inputs: Tensor) -> Tensor:
        """The outputs, in float32 at least."""
        parts = perturbations.split(self.sizes)
        added = [part.view(shape).to(dtype) for part, (shape, dtype) in zip(parts, self.uses, strict=False)]
        moved = dict(self.weights)
        for name, part in zip(self.vectors, parts[len(self.uses) :], strict=True):
            moved[name] = moved[name] + part.view_as(moved[name]).to(moved[name].dtype)
        with _Uses({id(self.weights[name]): name for name in self.matrices}, added):
            result = self.run(moved, inputs)
        return result if result.dtype in (torch.float32, torch.float64) else result.float()


def recorded_uses(
    run: Callable[..., Tensor], weights: Mapping[str, Tensor], matrices: Sequence[str], inputs: Tensor
) -> list[Use]:
    """Every use of a matrix in one plain pass, in its order.

    Args:
        run: ``(weights, inputs) -> outputs``.
        weights: all of them.
        matrices: the names of those to find.
        inputs: a batch.
    """
    with torch.no_grad(), _Uses({id(weights[name]): name for name in matrices}) as recorded:
        run(weights, inputs)
    return recorded.uses
