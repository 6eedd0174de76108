"""The second derivative d2D of a divergence along directions in parameter space, sample by sample."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigen_lightning.curvature.divergence import Divergence
from eigen_lightning.curvature.factor import EXPLICIT_UP_TO, Factor
from eigen_lightning.curvature.linearization import Linearization, Linearizer, push_forward
from eigen_lightning.curvature.metric_cache import MetricCache
from eigen_lightning.curvature.on_batch import CurvatureOnBatch
from eigen_lightning.curvature.parameters import ParameterSpace
from eigen_lightning.curvature.readout import DroppedMass, Readout, pulled_back_metric
from eigen_lightning.run.errors import UserError

log = logging.getLogger(__name__)


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

    def jacobian(self, inputs: Tensor) -> tuple[Tensor, Tensor] | None: ...


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
        self._believed: bool | None = None
        self._few: bool | None = None

    def at(self, inputs: Tensor, rows: int, sample_id: Tensor | None = None, keep: bool = False) -> CurvatureOnBatch:
        """As :meth:`Curvature.at`.

        Raises:
            UserError: where the divergence's gradient at W0 does not vanish.
        """
        if self.factorizes(inputs):
            factor = self.factor(inputs)
            return CurvatureOnBatch(factor.curvature, rows)
        linearization = self._linearized(inputs, rows)
        push, outputs = linearization.push, linearization.outputs
        if self.readout is None:
            return CurvatureOnBatch(lambda u: self.divergence.quadratic_form(push(u), outputs), rows)
        with torch.no_grad():
            metric = self._metric(outputs, sample_id, keep)

        def evaluate(directions: Tensor) -> Tensor:
            tangents = push(directions)
            return (torch.einsum("k...i,...ij->k...j", tangents, metric) * tangents).sum(-1)

        return CurvatureOnBatch(evaluate, rows)

    @torch.no_grad()
    def factorizes(self, inputs: Tensor) -> bool:
        """Whether parameters and outputs are so few that every sample's Hessian is written out; see :meth:`factor`.

        A network with positions, or with many outputs, goes by passes: its Jacobian would not fit into memory.

        Args:
            inputs: a batch; looked at once.
        """
        if self._few is None:
            few = self.readout is None and self.network.space.size <= EXPLICIT_UP_TO
            if few and type(self.divergence).square_root is not Divergence.square_root:
                outputs = self.network.outputs(self.network.weights, inputs[:1])
                self._few = outputs.ndim == 2 and outputs.shape[1] <= EXPLICIT_UP_TO
            else:
                self._few = False
        return self._few

    @torch.no_grad()
    def factor(self, inputs: Tensor) -> Factor:
        """The Hessians of a batch, written out.

        Args:
            inputs: a batch.

        Raises:
            UserError: as :meth:`at`.
        """
        written_out = self._closed_form(inputs)
        if written_out is not None:
            outputs, jacobian = written_out
            self._check(outputs)
        else:
            origin = self.origin
            linearization = self._linearized(inputs, len(origin))
            basis = torch.eye(len(origin), dtype=origin.dtype, device=origin.device)
            outputs, jacobian = linearization.outputs, linearization.push(basis).movedim(-1, 1)
        return Factor(self.divergence.square_root(jacobian, outputs).contiguous())

    def _closed_form(
        self, inputs: Tensor
    ) -> tuple[Float[Tensor, "batch n_out"], Float[Tensor, "P n_out batch"]] | None:
        """The network's own outputs and Jacobian, believed once the latter has agreed with a pass through it."""
        written_out = self.network.jacobian(inputs) if self._believed is not False else None
        if written_out is None or self._believed:
            return written_out
        weights = self.origin
        direction = torch.ones_like(weights) / len(weights) ** 0.5
        found = torch.einsum("p,pns->sn", direction, written_out[1])
        expected = push_forward(self.linearizer.function, weights, inputs, direction[None])[1][0]
        self._believed = torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        if not self._believed:
            log.warning(
                "%s.jacobian is not the derivative of its outputs, and is not used", type(self.network).__name__
            )
        return written_out if self._believed else None

    def _linearized(self, inputs: Tensor, rows: int) -> Linearization:
        linearization = self.linearizer.at(self.origin, inputs, rows)
        self._check(linearization.outputs)
        return linearization

    @torch.no_grad()
    def _check(self, outputs: Tensor) -> None:
        if not self._checked:
            self._check_gradient(outputs if self.readout is None else self.readout(outputs))
            self._checked = True

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
