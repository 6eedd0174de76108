"""From a target to linearized batches."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eigen_lightning.curvature.batch import MANY, LinearizedBatch
from eigen_lightning.curvature.divergence import Divergence, check_divergence
from eigen_lightning.curvature.jacobian import (
    differentiates_samples_alone,
    moving_outputs,
    rows_by_forward_mode,
    rows_by_reverse_mode,
    trace_by_reverse_mode,
    trace_of_rows,
)
from eigen_lightning.curvature.memory import Chunk
from eigen_lightning.curvature.nested import nested_quadratic
from eigen_lightning.curvature.parameters import ParameterSpace
from eigen_lightning.curvature.products import Function, PlainProducts, Products, products_for
from eigen_lightning.curvature.readout import Readout, check_readout, has_pull_back, pulled_back_metric
from eigen_lightning.curvature.scale import Scale, TraceNormalization
from eigen_lightning.curvature.static_graph import TracedProducts
from eigen_lightning.run.errors import UserError

log = logging.getLogger(__name__)

WRITTEN_OUT = 2**26
"""Numbers in a batch's Jacobian up to which it may be written out, where its trace is exact anyway."""

NARROW = 10
"""Outputs of a sample that parameters move, up to which a product with its written-out Jacobian is faster than a pass
through the network: measured on TMS, TMCS, groups and a residual MLP."""

TRACED_UP_TO = 2**28
"""Numbers in a chunk of directions up to which the graph is traced: tracing holds several of them."""


class Network(Protocol):
    """What curvature needs to know of a network; :class:`eigen_lightning.targets.Target` is one."""

    static_graph: bool

    @property
    def space(self) -> ParameterSpace: ...

    @property
    def weights(self) -> dict[str, Tensor]: ...

    @property
    def readout(self) -> Readout | None: ...

    def outputs(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor: ...

    def hidden(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Linearizer:
    """Linearizes a network at W0, batch by batch; made by :meth:`prepare`, which checks once what it relies on.

    Attributes:
        network: with its trained weights.
        divergence: D.
        method: ``gauss_newton``: D's gradient by the outputs vanishes at W0, so H is exactly J^T H_out J and one
            product per direction is enough; ``nested``: two nested products, for any divergence (the reference).
        function: from flat weights and inputs to outputs, or with ``readout`` to the tensor before it.
        products: how ``J u`` is computed.
        readout: what the metric of the outputs is pulled back through; None evaluates outputs.
        origin: W0 of the chosen parameters as one vector, float32 at least.
        probes: see :class:`LinearizedBatch`.
        chunk: how many directions are evaluated at a time.
        samples_alone: whether the network can be differentiated sample by sample in one batched pass.
        exact_traces: whether samples' traces are exact: by reverse mode of each sample alone, or by P probes.
        writes_out: whether Jacobians are written out, of batches that are small enough.
    """

    network: Network
    divergence: Divergence
    method: Literal["gauss_newton", "nested"]
    function: Function
    products: PlainProducts | TracedProducts
    readout: Readout | None
    origin: Float[Tensor, " P"]
    probes: Float[Tensor, "m P"]
    chunk: Chunk
    samples_alone: bool = False
    exact_traces: bool = False
    writes_out: bool = False

    @classmethod
    def prepare(
        cls,
        network: Network,
        divergence: Divergence,
        inputs: Tensor,
        method: Literal["gauss_newton", "nested"] = "gauss_newton",
        readout: bool = True,
        traces: TraceNormalization = TraceNormalization(),  # noqa: B008 - frozen
        chunk: Chunk | None = None,
        n_directions: int = 16,
        seed: int = 0,
    ) -> "Linearizer":
        """Choose how to linearize a network, and check on a few samples what the choice relies on.

        Args:
            network: with its trained weights, on the device to work on.
            divergence: D.
            inputs: a batch like those to come.
            method: see above.
            readout: pull the metric back through the network's linear readout where it has one.
            traces: how samples' traces are computed.
            chunk: how many directions at a time; sized on ``inputs`` where it is not set yet.
            n_directions: how many will be evaluated most of the time; chunks divide them evenly.
            seed: of the probes where traces are estimated.

        Raises:
            UserError: where a chosen parameter does not reach the outputs, the divergence or the readout is not what
                it declares, or the network cannot be differentiated.
        """
        weights = network.weights
        origin = _at_least_float32(network.space.flatten(weights))
        _check_parameters_reach(network, inputs)
        with torch.no_grad():
            outputs = network.outputs(weights, inputs)
        found = network.readout if readout and method == "gauss_newton" and has_pull_back(divergence) else None
        if method == "gauss_newton":
            check_divergence(divergence, _at_least_float32(outputs))
        if found is not None:
            with torch.no_grad():
                check_readout(found, _at_least_float32(network.hidden(weights, inputs)), outputs)
        of_network = network.outputs if found is None else network.hidden

        def function(flat: Tensor, batch: Tensor) -> Tensor:
            parts = network.space.unflatten(flat)
            return _at_least_float32(of_network({name: parts[name].to(weights[name].dtype) for name in parts}, batch))

        chunk = chunk or Chunk()
        chunk.size_for(lambda batch: function(origin, batch), inputs, n_directions)
        products: PlainProducts | TracedProducts = products_for(function, origin, inputs[:1])
        by_outputs = method == "gauss_newton" and found is None
        # A row of a sample's Jacobian costs a forward and a backward pass of it, and P numbers to write.
        affordable = by_outputs and isinstance(inputs, Tensor) and len(origin) * outputs.numel() <= WRITTEN_OUT
        affordable = affordable and 2 * outputs[0].numel() <= traces.exact_up_to
        alone = affordable and differentiates_samples_alone(function, origin, inputs)
        probes = traces.probe_directions(len(origin), origin, seed, exact=alone)
        exact = alone or len(probes) == len(origin)
        narrow = by_outputs and exact and _is_narrow(divergence, products(origin, inputs), len(origin))
        rows = chunk.rows or n_directions
        static = network.static_graph and method == "gauss_newton" and not narrow
        if static and isinstance(products, PlainProducts) and rows * len(origin) <= TRACED_UP_TO:
            products = TracedProducts.trace(products, origin, inputs, rows)
        return cls(network, divergence, method, function, products, found, origin, probes, chunk, alone, exact, narrow)

    @property
    def has_costly_parts(self) -> bool:
        """Whether metric or trace take long enough to be kept where samples return every epoch."""
        return self.readout is not None or not self.writes_out

    def __call__(
        self,
        inputs: Tensor,
        metric: Tensor | None = None,
        trace: Float[Tensor, "*samples"] | None = None,
        scale: Scale | None = None,
    ) -> LinearizedBatch:
        """Linearize a batch.

        Args:
            inputs: what the network takes.
            metric: of :attr:`LinearizedBatch.metric` where it was computed before.
            trace: of :attr:`LinearizedBatch.trace` where it was computed before.
            scale: of the losses, see :meth:`LinearizedBatch.scaled`.
        """
        origin = self.origin
        if self.method == "nested":
            outputs, quadratic = nested_quadratic(self.function, self.divergence, origin, inputs)
            return LinearizedBatch(outputs, lambda u: u, quadratic, self.probes, self.chunk, trace, scale)
        products = self.products(origin, inputs)
        outputs = products.outputs
        if self.readout is not None:
            if metric is None:
                with torch.no_grad():
                    metric = pulled_back_metric(self.divergence, self.readout, outputs)
            through = metric

            def by_metric(t: Tensor) -> Tensor:
                return (torch.einsum("k...i,...ij->k...j", t, through) * t).sum(-1)

            return LinearizedBatch(
                outputs, products.push, by_metric, self.probes, self.chunk, trace, scale, metric=metric
            )
        size = len(origin)
        if self.writes_out and size * outputs.numel() <= WRITTEN_OUT:
            return self._written_out(products, inputs, trace, scale)

        def by_rows() -> Tensor:
            chosen = _moving_outputs(self.divergence, products, size)
            return trace_by_reverse_mode(self.function, self.divergence, origin, inputs, outputs, chosen)

        return LinearizedBatch(
            outputs,
            products.push,
            lambda t: self.divergence.quadratic_form(t, outputs),
            self.probes,
            self.chunk,
            trace,
            scale,
            trace_otherwise=by_rows if self.samples_alone else None,
        )

    def _written_out(
        self, products: Products, inputs: Tensor, trace: Tensor | None, scale: Scale | None
    ) -> LinearizedBatch:
        """The batch's Jacobian as one matrix; where H_out is diagonal, without outputs that no parameter moves."""
        outputs, samples, size = products.outputs, products.outputs.shape[:-1], len(self.origin)
        diagonal = self.divergence.diagonal(outputs)
        chosen = _moving_outputs(self.divergence, products, size)
        # A row costs a forward and a backward pass of one sample, a column a tangent pass of all.
        if self.samples_alone and 2 * len(chosen) <= size * samples.numel():
            rows = rows_by_reverse_mode(self.function, self.origin, inputs, outputs, chosen)
        else:
            rows = rows_by_forward_mode(products, size, chosen, self.chunk.rows or MANY)
        if diagonal is None:

            def quadratic(t: Tensor) -> Tensor:
                return self.divergence.quadratic_form(t.unflatten(1, outputs.shape), outputs)

            if trace is None:
                trace = trace_of_rows(self.divergence, rows, outputs)

        else:
            rows = rows * diagonal.flatten()[chosen, None].sqrt()
            sample = chosen // outputs.shape[-1]

            def quadratic(t: Tensor) -> Tensor:
                d = t.new_zeros(len(t), samples.numel()).index_add(1, sample, t.square())
                return d.unflatten(1, samples)

            if trace is None:
                trace = rows.new_zeros(samples.numel()).index_add(0, sample, rows.square().sum(1)).view(samples)
        return LinearizedBatch(
            outputs, lambda u: u @ rows.T, quadratic, self.probes, Chunk(MANY), trace, scale, written_out=True
        )


def _is_narrow(divergence: Divergence, products: Products, size: int) -> bool:
    moving = _moving_outputs(divergence, products, size)
    return len(moving) <= NARROW * products.outputs.shape[:-1].numel()


def _moving_outputs(divergence: Divergence, products: Products, size: int) -> Int[Tensor, " m"]:
    """The numbers of the outputs that count: all, or where H_out is diagonal those that any parameter moves."""
    outputs = products.outputs
    if divergence.diagonal(outputs) is None:
        return torch.arange(outputs.numel(), device=outputs.device)
    return moving_outputs(products, size)


def _at_least_float32(tensor: Tensor) -> Tensor:
    """d2D is of second and steepness of fourth order in the tangents, of which half precision leaves too little."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _check_parameters_reach(network: Network, inputs: Tensor) -> None:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in network.weights.items()}
    with torch.enable_grad():
        outputs = network.outputs(leaves, inputs)
        used: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if outputs.requires_grad:
            used = torch.autograd.grad(outputs.sum(), list(leaves.values()), allow_unused=True)
    unused = [name for name, gradient in zip(leaves, used, strict=True) if gradient is None]
    if unused:
        raise UserError(
            f"expected parameters that the outputs depend on, got {', '.join(unused[:5])}, which the network does not "
            "use: leave them out of `parameters`"
        )
