"""Jacobian products of factored directions, without a dense tangent or gradient.

Every use of a chosen matrix in a pass of the network adds a perturbation eps to what comes out of it. The input of
each use is recorded in one plain pass; a direction ``B C^T`` then moves the output of ``x W^T`` by ``(x C) B^T``, one
forward product at eps = 0 carries that to the outputs, and its reverse gives back the gradients by B and C.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.curvature.batch import LinearizedBatch
from eigen_lightning.curvature.factored import FactoredSpace
from eigen_lightning.curvature.linearize import TRACED_UP_TO, Linearizer
from eigen_lightning.curvature.matrix_uses import PerturbedNetwork, Use, recorded_uses
from eigen_lightning.curvature.products import PlainProducts
from eigen_lightning.curvature.readout import pulled_back_metric
from eigen_lightning.curvature.scale import Scale
from eigen_lightning.curvature.static_graph import TracedProducts
from eigen_lightning.run.errors import UserError

TOLERANCE = 1e-3
"""Relative difference from a dense product, in float32, beyond which a use of a matrix was missed."""

NEGLIGIBLE = 1e-3
"""Of the largest parameter's product: a smaller one is compared with this."""


@dataclass(frozen=True)
class FactoredLinearizer:
    """Linearizes batches for directions held as factors; made by :meth:`prepare`.

    Attributes:
        dense: the linearizer of dense directions, whose network, divergence and readout are used.
        coordinates: of the directions.
        probes: for traces, in coordinates; none where traces are those of dense directions, which have less variance.
        traced: products with batches of one shape, where the network's graph is static.
    """

    dense: Linearizer
    coordinates: FactoredSpace
    probes: Float[Tensor, "m Q"]
    traced: TracedProducts | None = None

    @classmethod
    def prepare(
        cls, dense: Linearizer, rank: int, inputs: Tensor, n_probes: int = 0, seed: int = 0
    ) -> "FactoredLinearizer":
        """Compare a random direction in every parameter with its dense product, and refuse what is not reached.

        Args:
            dense: of the same network; ``gauss_newton``.
            rank: of each matrix's part.
            inputs: a batch like those to come.
            n_probes: random directions for traces where dense ones do not fit; 0 takes the traces of ``dense``.
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
        return linearizer._with_traced_products(inputs)

    def _with_traced_products(self, inputs: Tensor) -> "FactoredLinearizer":
        rows = self.dense.chunk.rows
        perturbed, _ = self._network(inputs)
        size = sum(perturbed.sizes)
        if not self.dense.network.static_graph or rows is None or rows * size > TRACED_UP_TO:
            return self
        origin = self.dense.origin.new_zeros(size)
        return replace(self, traced=TracedProducts.trace(PlainProducts(perturbed), origin, inputs, rows))

    def _network(self, inputs: Tensor) -> tuple[PerturbedNetwork, list[Use]]:
        """The network as a function of perturbations of what its matrices' uses on this batch yield, and those uses."""
        network = self.dense.network
        weights = {name: tensor.detach() for name, tensor in network.weights.items()}
        run = network.outputs if self.dense.readout is None else network.hidden
        matrices = [name for name in network.space.names if self.coordinates.rank_of(name)]
        vectors = [name for name in network.space.names if not self.coordinates.rank_of(name)]
        uses = recorded_uses(run, weights, matrices, inputs)
        return PerturbedNetwork(run, weights, matrices, vectors, [(use.shape, use.dtype) for use in uses]), uses

    def __call__(
        self,
        inputs: Tensor,
        metric: Tensor | None = None,
        trace: Float[Tensor, "*samples"] | None = None,
        scale: Scale | None = None,
    ) -> LinearizedBatch:
        """Linearize a batch; arguments as :meth:`Linearizer.__call__` has them, rows in coordinates."""
        perturbed, uses = self._network(inputs)

        def tangents(rows: Tensor) -> Tensor:
            parts = self.coordinates.split(rows)
            columns = [use.tangent(*parts[use.name]).flatten(1) for use in uses]
            return torch.cat([*columns, *(parts[name] for name in perturbed.vectors)], 1)  # type: ignore[list-item]

        at_zero = self.dense.origin.new_zeros(sum(perturbed.sizes))
        if self.traced is not None and self.traced.shape == inputs.shape:
            products = self.traced(at_zero, inputs)
        else:
            products = PlainProducts(perturbed)(at_zero, inputs)
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
            metric=metric, n_parameters=self.coordinates.space.size,
            trace_otherwise=None if len(self.probes) else lambda: self.dense(inputs, metric).trace,
        )  # fmt: skip


def _zeros(part: Any) -> Any:
    return tuple(torch.zeros_like(each) for each in part) if isinstance(part, tuple) else torch.zeros_like(part)
