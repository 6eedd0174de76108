"""The second derivative d2D of a divergence along directions in parameter space, sample by sample."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigen_lightning.curvature.divergence import Divergence
from eigen_lightning.curvature.linearization import Linearizer
from eigen_lightning.curvature.metric_cache import MetricCache
from eigen_lightning.curvature.readout import DroppedMass, Readout, pulled_back_metric
from eigen_lightning.errors import UserError
from eigen_lightning.parameters import ParameterSpace


@dataclass(frozen=True)
class CurvatureOnBatch:
    """d2D of directions on one batch: ``[K, P] -> [K, batch, *positions]``; differentiable in the directions.

    Attributes:
        evaluate: for at most ``rows`` directions.
        rows: how many directions are evaluated at a time.
    """

    evaluate: Callable[[Tensor], Tensor]
    rows: int

    def __call__(self, directions: Float[Tensor, "K P"]) -> Float[Tensor, "K batch *positions"]:
        if len(directions) <= self.rows:
            return self.evaluate(directions)
        return torch.cat([self.evaluate(part) for part in directions.split(self.rows)])

    def divided_by(self, divisor: Tensor | float) -> "CurvatureOnBatch":
        """The same, each sample's curvature divided by a number of its own."""
        return CurvatureOnBatch(lambda directions: self.evaluate(directions) / divisor, self.rows)


class Network(Protocol):
    """What curvature needs to know of a network; :class:`eigen_lightning.targets.Target` is one."""

    @property
    def space(self) -> ParameterSpace: ...

    @property
    def weights(self) -> dict[str, Tensor]: ...

    @property
    def readout(self) -> Readout | None: ...

    def outputs(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor: ...

    def hidden(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor: ...


class Curvature(ABC):
    """d2D(x, u) = u^T H(x) u, H the Hessian of D(f(x, W), f(x, W0)) by the chosen parameters at W0.

    Args:
        network: the network with its trained weights.
        divergence: D.
    """

    def __init__(self, network: Network, divergence: Divergence) -> None:
        self.network = network
        self.divergence = divergence

    @property
    def origin(self) -> Float[Tensor, " P"]:
        """W0 of the chosen parameters as one vector."""
        return self.network.space.flatten(self.network.weights)

    def primal(self, inputs: Tensor) -> Tensor:
        """What is differentiated, at the trained weights: the outputs, or the tensor before the readout."""
        return self.network.outputs(self.network.weights, inputs)

    @abstractmethod
    def at(
        self, inputs: Tensor, rows: int, sample_id: Int[Tensor, " batch"] | None = None, keep: bool = False
    ) -> CurvatureOnBatch:
        """Prepare a batch: whatever does not depend on the directions is computed here, once.

        Args:
            inputs: a batch of inputs.
            rows: how many directions are evaluated at a time.
            sample_id: identities of the samples; what is kept of them is taken from there.
            keep: whether to keep what is computed, as these samples return. Batches whose composition does not depend
                on chance should be kept, so that a resumed run finds the same to the last bit.
        """


class Nested(Curvature):
    """Two nested forward-mode products, ``jvp(jvp(D))``: the reference, for any divergence."""

    def at(self, inputs: Tensor, rows: int, sample_id: Tensor | None = None, keep: bool = False) -> CurvatureOnBatch:
        network, origin = self.network, self.origin
        with torch.no_grad():
            reference = network.outputs(network.weights, inputs)

        def divergence(weights: Tensor) -> Tensor:
            return self.divergence.value(network.outputs(network.space.unflatten(weights), inputs), reference)

        def second(direction: Tensor) -> Tensor:
            return jvp(lambda w: jvp(divergence, (w,), (direction,))[1], (origin,), (direction,))[1]

        def evaluate(directions: Tensor) -> Tensor:
            with sdpa_kernel(SDPBackend.MATH):
                return vmap(second)(directions)

        return CurvatureOnBatch(evaluate, rows)


EXPLICIT_UP_TO = 64
"""P up to which the Jacobian of a batch is written out: one small product then replaces a pass through the network."""


def explicit(columns: Float[Tensor, "P batch *positions n"]) -> Callable[[Tensor], Tensor]:
    """The linear map that takes the basis to these tangents, as one matrix product."""
    jacobian, shape = columns.flatten(1), columns.shape[1:]
    return lambda directions: (directions @ jacobian).view(len(directions), *shape)


class GaussNewton(Curvature):
    """One forward-mode product: as D's gradient by the outputs vanishes at W0, H is exactly J^T H_out J.

    Where the network ends in a linear readout that holds none of the chosen parameters, the tangent is taken before
    it and the metric of the outputs is pulled back (DESIGN section 2).

    Args:
        network: the network with its trained weights.
        divergence: D, with vanishing gradient at W0.
        readout: ``auto`` pulls the metric back where that is possible; ``off`` always goes through the outputs.
        staged: compute what does not depend on directions once a batch.
        cache: keeps the metric of samples that return every epoch.
        metric_top_k: form the metric from this many of the likeliest outputs; None is exact.

    Attributes:
        dropped: the probability that ``metric_top_k`` has left out so far.
    """

    def __init__(
        self,
        network: Network,
        divergence: Divergence,
        readout: Literal["auto", "off"] = "auto",
        staged: bool = True,
        cache: MetricCache | None = None,
        metric_top_k: int | None = None,
    ) -> None:
        super().__init__(network, divergence)
        self.metric_top_k = metric_top_k
        self.dropped = DroppedMass()
        self.readout = network.readout if readout == "auto" and _can_pull_back(divergence) else None
        self.cache = cache
        function = network.outputs if self.readout is None else network.hidden
        self.linearizer = Linearizer(lambda w, x: function(network.space.unflatten(w), x), staged)
        self._checked = False

    def at(self, inputs: Tensor, rows: int, sample_id: Tensor | None = None, keep: bool = False) -> CurvatureOnBatch:
        """As :meth:`Curvature.at`.

        Raises:
            UserError: where the divergence's gradient at W0 does not vanish.
        """
        origin = self.origin
        written_out = len(origin) <= EXPLICIT_UP_TO
        linearization = self.linearizer.at(origin, inputs, len(origin) if written_out else rows)
        with torch.no_grad():
            if not self._checked:
                outputs = linearization.outputs
                self._check_gradient(outputs if self.readout is None else self.readout(outputs))
                self._checked = True
            push = linearization.push
            if written_out:
                push = explicit(push(torch.eye(len(origin), dtype=origin.dtype, device=origin.device)))
            if self.readout is None:
                reference = linearization.outputs
                return CurvatureOnBatch(lambda u: self.divergence.quadratic_form(push(u), reference), rows)
            metric = self._metric(linearization.outputs, sample_id, keep)

        def evaluate(directions: Tensor) -> Tensor:
            tangents = push(directions)
            return (torch.einsum("k...i,...ij->k...j", tangents, metric) * tangents).sum(-1)

        return CurvatureOnBatch(evaluate, rows)

    def primal(self, inputs: Tensor) -> Tensor:
        return self.linearizer.function(self.origin, inputs)

    def _metric(self, hidden: Tensor, sample_id: Tensor | None, keep: bool) -> Tensor:
        assert self.readout is not None
        cache = self.cache if sample_id is not None else None
        if cache is not None and sample_id is not None and cache.holds(sample_id):
            return cache.get(sample_id, hidden.device)
        metric = pulled_back_metric(
            self.divergence, self.readout, hidden, top_k=self.metric_top_k, dropped=self.dropped
        )
        if not keep or cache is None or sample_id is None:
            return metric
        # What is kept is one triangle: the first use takes it from there too, or it would differ in the last bit from
        # every later one, and a resumed run from an unbroken one.
        cache.put(sample_id, metric)
        return cache.get(sample_id, hidden.device)

    def _check_gradient(self, reference: Tensor) -> None:
        gradient = self.divergence.gradient_at_reference(reference).abs().max()
        # Rounding leaves about one unit in the last place of the outputs' scale.
        if gradient > 1e3 * torch.finfo(reference.dtype).eps * max(1.0, float(reference.abs().max())):
            raise UserError(
                f"gauss_newton needs a divergence whose gradient vanishes at the trained weights; that of "
                f"{type(self.divergence).__name__} is up to {gradient:.3g} there: use `curvature: nested`"
            )


def _can_pull_back(divergence: Divergence) -> bool:
    return type(divergence).pull_back is not Divergence.pull_back
