"""Outputs of a network at its trained weights, and products with its Jacobian by the chosen parameters."""

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigen_lightning.curvature.memory import is_out_of_memory
from eigen_lightning.run.errors import UserError

log = logging.getLogger(__name__)

Function = Callable[[Tensor, Tensor], Tensor]
"""``f(flat weights [P], inputs) -> outputs [batch, *positions, n]``."""


Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Products:
    """A function linearized at W0 for one batch of inputs.

    Attributes:
        outputs: at W0, ``[*samples, n]``.
        push: ``J u``: directions ``[k, P]`` to tangents ``[k, *samples, n]``; differentiable in the directions.
    """

    outputs: Tensor
    push: Linear


def forward_mode(
    function: Function, weights: Float[Tensor, " P"], inputs: Tensor
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Directions to outputs and tangents, by one forward-mode product for all directions."""

    def one(u: Tensor) -> Any:
        return jvp(lambda w: function(w, inputs), (weights,), (u,))

    def outputs_and_tangents(directions: Tensor) -> tuple[Tensor, Tensor]:
        with exact_kernels():
            return vmap(one, out_dims=(None, 0))(directions)  # type: ignore[arg-type,return-value]

    return outputs_and_tangents


@contextmanager
def exact_kernels(native: bool = False) -> Iterator[None]:
    """Attention by the math kernel, the only one with a forward-mode derivative; ``native``: nothing by oneDNN."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False) if native else nullcontext():
        yield


class _Push(torch.autograd.Function):
    """``J u`` with ``J^T c`` as its reverse: nothing has to be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, directions: Tensor, push: Linear, pull: Linear) -> Tensor:
        ctx.pull = pull
        return push(directions)

    @staticmethod
    def backward(ctx: Any, cotangents: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.pull(cotangents), None, None


@dataclass(frozen=True)
class PlainProducts:
    """Products of any network: ``J u`` forward, ``J^T c`` in reverse; all ways are exact and differ in what they need.

    Attributes:
        function: the network.
        double_reverse: ``J u`` as the derivative of ``J^T v`` by v, for parts without a forward-mode derivative.
        native: without oneDNN, whose recurrent layers have none.
        looped: one direction at a time, for parts that cannot be batched over directions.
    """

    function: Function
    double_reverse: bool = False
    native: bool = False
    looped: bool = False

    def __call__(self, weights: Float[Tensor, " P"], inputs: Tensor) -> Products:
        """Outputs and tangents on a batch."""
        with exact_kernels(self.native):
            outputs, pull_one = vjp(lambda w: self.function(w, inputs), weights)  # type: ignore[misc]
        outputs = outputs.detach()
        if self.double_reverse:
            with exact_kernels(self.native):
                _, push_of = vjp(lambda v: pull_one(v)[0], torch.zeros_like(outputs))  # type: ignore[misc]
            push_one = lambda u: push_of(u)[0]  # noqa: E731
        else:
            push_one = lambda u: jvp(lambda w: self.function(w, inputs), (weights,), (u,))[1]  # noqa: E731

        def push(directions: Tensor) -> Tensor:
            with exact_kernels(self.native):
                return self._over(push_one, directions).detach()

        def pull(cotangents: Tensor) -> Tensor:
            with exact_kernels(self.native):
                return self._over(lambda c: pull_one(c)[0], cotangents).detach()

        return Products(outputs, lambda directions: _Push.apply(directions, push, pull))  # type: ignore[no-untyped-call]

    def _over(self, one: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        return torch.stack([one(row) for row in rows]) if self.looped else vmap(one)(rows)

    def __str__(self) -> str:
        how = ["reverse mode over reverse mode" if self.double_reverse else "forward mode"]
        how += ["without oneDNN"] * self.native + ["one direction at a time"] * self.looped
        return ", ".join(how)


def products_for(function: Function, weights: Float[Tensor, " P"], inputs: Tensor) -> PlainProducts:
    """The first way to linearize a function that works on a batch; any but the first is said once in the log.

    Raises:
        UserError: where none does, with the first way's error.
    """
    first_error: Exception | None = None
    for looped, double_reverse, native in itertools.product((False, True), repeat=3):
        candidate = PlainProducts(function, double_reverse, native, looped)
        directions = torch.ones(2, len(weights), dtype=weights.dtype, device=weights.device).requires_grad_()
        try:
            with torch.enable_grad():
                candidate(weights, inputs).push(directions).sum().backward()
        # What torch raises where an operation lacks a derivative or a batching rule.
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            first_error = first_error or error
            continue
        if first_error is not None:
            log.warning("the network is linearized by %s, exact but slower: %s", candidate, _one_line(first_error))
        return candidate
    raise UserError(
        f"expected a network that torch.func can differentiate, got: {_one_line(first_error)}; replace that part, or "
        "choose parameters behind it"
    ) from first_error


def _one_line(error: Exception | None) -> str:
    return str(error).strip().splitlines()[0][:200] if error is not None else ""
