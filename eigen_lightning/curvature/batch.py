"""Samples linearized at W0: all that belongs to samples and not to directions, computed once a batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.curvature.memory import Chunk
from eigen_lightning.curvature.scale import Scale

MANY = 2**16
"""Directions at a time where memory does not matter."""


class Objective(Protocol):
    """A function of d2D whose gradient by the directions is wanted."""

    @property
    def rowwise(self) -> bool:
        """Whether the derivative by one direction's d2D needs no other's: chunks then take one pass instead of two."""

    def cotangent(self, d: Float[Tensor, "k *samples"], rows: slice) -> Float[Tensor, "k *samples"]:
        """The derivative by d, for these rows of all directions; ``d`` holds all rows where not ``rowwise``."""


@dataclass(frozen=True)
class LinearizedBatch:
    """d2D of any directions on one batch, exact to second order: ``d2D(x, u) = quadratic(push(u))``.

    Attributes:
        outputs: at W0, ``[*samples, n]``: the outputs, or the tensor before a linear readout.
        push: directions ``[k, P]`` to tangents ``[k, ...]``; linear, differentiable.
        quadratic: tangents ``[k, ...]`` to ``t^T H_out t``, ``[k, *samples]``.
        probes: directions whose d2D sum to each sample's trace up to the factor P/m, ``[m, P]``.
        chunk: how many directions are evaluated at a time.
        known_trace: the trace where it was computed before, ``[*samples]``.
        scale: what :meth:`scaled` divides d2D by; None leaves it as it is.
        written_out: whether the Jacobian is held as a matrix, so that the batch is worth keeping.
        metric: of the outputs pulled back through the readout, ``[*samples, d, d]``, where there is one.
        n_parameters: P where the rows are coordinates of another number; None where they are P long.
        trace_otherwise: computes the trace otherwise than by the probes.
    """

    outputs: Tensor
    push: Callable[[Tensor], Tensor]
    quadratic: Callable[[Tensor], Tensor]
    probes: Float[Tensor, "m P"]
    chunk: Chunk
    known_trace: Tensor | None = None
    scale: Scale | None = None
    written_out: bool = False
    metric: Tensor | None = None
    n_parameters: int | None = None
    trace_otherwise: Callable[[], Tensor] | None = None

    @property
    def n_samples(self) -> int:
        """How many samples: positions of a sequence count one each."""
        return self.outputs.shape[:-1].numel()

    @cached_property
    def trace(self) -> Float[Tensor, "*samples"]:
        """The trace of each sample's Hessian, exact or estimated as :class:`TraceNormalization` says."""
        if self.known_trace is not None:
            return self.known_trace
        if self.trace_otherwise is not None:
            return self.trace_otherwise()
        total = torch.zeros(self.outputs.shape[:-1], dtype=self.probes.dtype, device=self.outputs.device)
        with torch.no_grad():
            for part in self.probes.split(self.chunk.rows or MANY):
                total += self.quadratic(self.push(part)).sum(0)
        return total * ((self.n_parameters or self.probes.shape[1]) / self.probes.shape[0])

    @cached_property
    def divisor(self) -> Tensor | float:
        """What the scale divides each sample's d2D by, ``[*samples]``."""
        if self.scale is None:
            return 1.0
        common = self.scale.mean ** (1 - self.scale.power)
        if self.scale.power == 0:
            return common
        trace = self.trace if self.known_trace is None else self.known_trace
        return trace.clamp_min(self.scale.floor) ** self.scale.power * common

    def scaled_by(self, scale: Scale | None) -> "LinearizedBatch":
        """The same samples, d2D in another scale."""
        # A trace that was computed is passed on; vars, as the property would compute it.
        return replace(self, scale=scale, known_trace=vars(self).get("trace", self.known_trace))

    def with_trace(self, trace: Float[Tensor, "*samples"]) -> "LinearizedBatch":
        """The same samples, their trace computed before."""
        return replace(self, known_trace=trace)

    def d2D(self, U: Float[Tensor, "K P"]) -> Float[Tensor, "K *samples"]:  # noqa: N802 - the name of the quantity
        """Second derivative of the divergence along each direction, per sample; without gradient.

        Unit: divergence per squared length in parameter space.
        """
        while True:
            try:
                return self._d2D(U)
            except RuntimeError as error:
                self.chunk.halve_after(error)

    @torch.no_grad()
    def _d2D(self, U: Tensor) -> Tensor:  # noqa: N802
        parts = U.to(self.probes).split(self.chunk.rows or MANY)
        return torch.cat([self.quadratic(self.push(part)) for part in parts])

    def scaled(self, U: Float[Tensor, "K P"]) -> Float[Tensor, "K *samples"]:
        """d2D in the scale of the losses."""
        return self.d2D(U) / self.divisor

    def value_and_gradient(
        self, U: Float[Tensor, "K P"], objective: Objective
    ) -> tuple[Float[Tensor, "K *samples"], Float[Tensor, "K P"]]:
        """Scaled d2D of each direction, and the gradient of an objective of it by the directions.

        One tangent and one cotangent pass per chunk of directions, and a tangent pass more where the objective
        compares directions and they do not fit in one chunk.

        Args:
            U: directions.
            objective: of scaled d2D.
        """
        while True:
            try:
                return self._value_and_gradient(U, objective)
            except RuntimeError as error:
                self.chunk.halve_after(error)

    def _value_and_gradient(self, U: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        parts = U.detach().to(self.probes).split(self.chunk.rows or MANY)
        everything = None if objective.rowwise or len(parts) == 1 else self._d2D(U) / self.divisor
        values, gradients, first = [], [], 0
        for part in parts:
            rows = slice(first, first + len(part))
            with torch.enable_grad():
                leaf = part.clone().requires_grad_()
                d = self.quadratic(self.push(leaf)) / self.divisor
                cotangent = objective.cotangent(d.detach() if everything is None else everything, rows)
                gradients.append(torch.autograd.grad(d, leaf, cotangent)[0])
            values.append(d.detach())
            first += len(part)
        return torch.cat(values), torch.cat(gradients)

    def cross(self, U: Float[Tensor, "K P"]) -> Float[Tensor, "K K *samples"]:
        """``u_k^T H(x) u_l`` of every pair, by polarization; its diagonal is :meth:`d2D`. Memory: K^2 x samples."""
        with torch.no_grad():
            t = torch.cat([self.push(part) for part in U.to(self.probes).split(self.chunk.rows or MANY)])
            return torch.stack([(self.quadratic(t + each) - self.quadratic(t - each)) / 4 for each in t])
