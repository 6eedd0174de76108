"""Jacobian products of factored directions, without a dense tangent or gradient.

Every use of a chosen matrix in a pass of the network adds a perturbation eps to what comes out of it. The input of
each use is recorded in one plain pass; a direction ``B C^T`` then moves the output of ``x W^T`` by ``(x C) B^T``, one
forward product at eps = 0 carries that to the outputs, and its reverse gives back the gradients by B and C.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from eigen_lightning.curvature.batch import LinearizedBatch
from eigen_lightning.curvature.factored import FactoredSpace
from eigen_lightning.curvature.linearize import Linearizer
from eigen_lightning.curvature.products import PlainProducts
from eigen_lightning.curvature.readout import pulled_back_metric
from eigen_lightning.curvature.scale import Scale
from eigen_lightning.run.errors import UserError

Kind = Literal["x W^T", "x W", "rows of W"]
"""How a matrix is used: as a linear layer has it, as a right factor, as a table."""

TRANSPOSES = (torch.t, Tensor.t, Tensor.T.__get__, Tensor.mT.__get__, torch.transpose, Tensor.transpose)  # type: ignore[attr-defined]
PRODUCTS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)

TOLERANCE = 1e-3
"""Relative difference from a dense product, in float32, beyond which a use of a matrix was missed."""

NEGLIGIBLE = 1e-3
"""Of the largest parameter's product: a smaller one is compared with this."""


@dataclass(frozen=True)
class Use:
    """One use of a chosen matrix in a pass.

    Attributes:
        name: of the parameter.
        kind: how it is used.
        inputs: x, or the rows that are looked up.
        shape: of what comes out.
    """

    name: str
    kind: Kind
    inputs: Tensor
    shape: torch.Size

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
            self.uses.append(Use(name, kind, inputs.detach(), result.shape))
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
class FactoredLinearizer:
    """Linearizes batches for directions held as factors; made by :meth:`prepare`.

    Attributes:
        dense: the linearizer of dense directions, whose network, divergence and readout are used.
        coordinates: of the directions.
        probes: for traces, in coordinates.
    """

    dense: Linearizer
    coordinates: FactoredSpace
    probes: Float[Tensor, "m Q"]

    @classmethod
    def prepare(
        cls, dense: Linearizer, rank: int, inputs: Tensor, n_probes: int = 256, seed: int = 0
    ) -> "FactoredLinearizer":
        """Compare a random direction in every parameter with its dense product, and refuse what is not reached.

        Args:
            dense: of the same network; ``gauss_newton``.
            rank: of each matrix's part.
            inputs: a batch like those to come.
            n_probes: random directions for traces.
            seed: of the probes.

        Raises:
            UserError: naming a parameter that is used in a way that cannot be perturbed.
        """
        coordinates = FactoredSpace(dense.network.space, rank)
        probes = coordinates.probes(n_probes, seed).to(dense.origin)
        linearizer = cls(dense, coordinates, probes)
        few = inputs[:2]
        batch, whole = linearizer(few), dense.products(dense.origin, few)
        parts = coordinates.split(coordinates.random(1, seed, "check").to(dense.origin))
        off, size = {}, {}
        for name in dense.network.space.names:
            only = coordinates.join({other: part if other == name else _zeros(part) for other, part in parts.items()})
            with torch.no_grad():
                expected = whole.push(coordinates.dense(only))
                off[name], size[name] = float((batch.push(only) - expected).norm()), float(expected.norm())
        # A vector added to every key moves nothing, and its product is rounding alone.
        least = NEGLIGIBLE * max(size.values())
        for name in size:
            if off[name] > TOLERANCE * max(size[name], least):
                raise UserError(
                    f"expected {name} to be used by linear layers, matrix products or as an embedding, got another use "
                    f"(its product is off by {off[name] / max(size[name], least):.2g}): leave it out of `parameters`, "
                    "or hold directions dense"
                )
        return linearizer

    def __call__(
        self,
        inputs: Tensor,
        metric: Tensor | None = None,
        trace: Float[Tensor, "*samples"] | None = None,
        scale: Scale | None = None,
    ) -> LinearizedBatch:
        """Linearize a batch; arguments as :meth:`Linearizer.__call__` has them, rows in coordinates."""
        network, space = self.dense.network, self.dense.network.space
        weights = {name: tensor.detach() for name, tensor in network.weights.items()}
        run: Callable[..., Tensor] = network.outputs if self.dense.readout is None else network.hidden
        names = {id(weights[name]): name for name in space.names if self.coordinates.rank_of(name)}
        vectors = [name for name in space.names if not self.coordinates.rank_of(name)]
        with torch.no_grad(), _Uses(names) as recorded:
            run(weights, inputs)
        uses = recorded.uses
        sizes = [use.shape.numel() for use in uses] + [weights[name].numel() for name in vectors]

        def perturbed(flat: Tensor, batch: Tensor) -> Tensor:
            parts = flat.split(sizes)
            shaped = [part.view(use.shape).to(use.inputs.dtype if use.kind != "rows of W" else weights[use.name].dtype)
                      for part, use in zip(parts, uses, strict=False)]  # fmt: skip
            moved = {name: weights[name] + part.view_as(weights[name]).to(weights[name].dtype)
                     for name, part in zip(vectors, parts[len(uses) :], strict=True)}  # fmt: skip
            with _Uses(names, shaped):
                result = run({**weights, **moved}, batch)
            return result if result.dtype in (torch.float32, torch.float64) else result.float()

        def tangents(rows: Tensor) -> Tensor:
            parts = self.coordinates.split(rows)
            columns = [use.tangent(*parts[use.name]).flatten(1) for use in uses]
            return torch.cat([*columns, *(parts[name] for name in vectors)], 1)  # type: ignore[list-item]

        # No trace of the graph: the perturbations are as large as the batch, and so would be the graph's constants.
        products = PlainProducts(perturbed)(self.dense.origin.new_zeros(sum(sizes)), inputs)
        outputs, divergence = products.outputs, self.dense.divergence
        if self.dense.readout is not None and metric is None:
            with torch.no_grad():
                metric = pulled_back_metric(divergence, self.dense.readout, outputs)

        def quadratic(t: Tensor) -> Tensor:
            if metric is None:
                return divergence.quadratic_form(t, outputs)
            return (torch.einsum("k...i,...ij->k...j", t, metric) * t).sum(-1)

        return LinearizedBatch(
            outputs, lambda rows: products.push(tangents(rows)), quadratic, self.probes, self.dense.chunk, trace, scale,
            metric=metric, n_parameters=space.size,
        )  # fmt: skip


def _zeros(part: Any) -> Any:
    return tuple(torch.zeros_like(each) for each in part) if isinstance(part, tuple) else torch.zeros_like(part)
