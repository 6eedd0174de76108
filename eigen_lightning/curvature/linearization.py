"""The Jacobian of a network's outputs by its chosen parameters, as a linear map that is cheap to apply many times.

What does not depend on the direction (the primal pass, every layer before the first chosen parameter, the
coefficients of the linearization) is computed once a batch; what does is a graph of linear operations, run for many
directions at once. Its reverse by autograd is the cotangent pass.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx
from torch.func import functionalize, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigen_lightning.curvature.tangent_graph import simplify, split

log = logging.getLogger(__name__)

Function = Callable[[Tensor, Tensor], Tensor]
"""``f(flat weights [P], inputs) -> outputs [batch, *positions, n]``."""


def push_forward(
    function: Function, weights: Float[Tensor, " P"], inputs: Tensor, directions: Float[Tensor, "K P"]
) -> tuple[Float[Tensor, "batch *positions n"], Float[Tensor, "K batch *positions n"]]:
    """Outputs at the weights, and the tangent ``J u`` of each direction, by one forward-mode product."""
    # Fused attention kernels have no forward-mode derivative; the math kernel has one on every device.
    with sdpa_kernel(SDPBackend.MATH):
        tangent_of = vmap(lambda u: jvp(lambda w: function(w, inputs), (weights,), (u,)), out_dims=(None, 0))  # type: ignore[arg-type]
        outputs, tangents = tangent_of(directions)  # type: ignore[misc]
        return outputs, tangents


@dataclass(frozen=True)
class Linearization:
    """A network linearized at its weights for one batch of inputs.

    Attributes:
        outputs: at the weights, ``[batch, *positions, n]``.
        push: directions ``[K, P]`` to tangents ``[K, batch, *positions, n]``; differentiable.
    """

    outputs: Tensor
    push: Callable[[Tensor], Tensor]


class Linearizer:
    """Linearizes one function for batch after batch; traces it once for each shape of batch and number of rows.

    A function that cannot be traced (control flow that depends on values) is linearized by a plain forward-mode
    product a chunk instead, which is said once in the log.
    """

    def __init__(self, function: Function, staged: bool = True) -> None:
        self.function = function
        self.staged = staged
        self._traced: dict[tuple[Any, ...], tuple[fx.GraphModule, fx.GraphModule]] = {}

    def at(self, weights: Float[Tensor, " P"], inputs: Tensor, rows: int) -> Linearization:
        """Linearize at the weights for a batch.

        Args:
            weights: W0 of the chosen parameters.
            inputs: a batch.
            rows: how many directions will be pushed at a time; fewer are padded, so that one trace serves.
        """
        with torch.no_grad():
            if not self.staged:
                return self._plain(weights, inputs)
            key = (rows, inputs.shape, inputs.dtype, weights.dtype, inputs.device)
            if key not in self._traced and not self._trace(key, weights, inputs, rows):
                return self._plain(weights, inputs)
            primal, tangent = self._traced[key]
            outputs, *coefficients = primal(weights, inputs)

        def push(directions: Tensor) -> Tensor:
            missing = rows - len(directions)
            if missing:
                directions = torch.cat([directions, directions.new_zeros(missing, directions.shape[1])])
            return tangent(directions, *coefficients)[: rows - missing]

        return Linearization(outputs, push)

    def _plain(self, weights: Tensor, inputs: Tensor) -> Linearization:
        with sdpa_kernel(SDPBackend.MATH):
            outputs = self.function(weights, inputs)
        return Linearization(outputs, lambda u: push_forward(self.function, weights, inputs, u)[1])

    def _trace(self, key: tuple[Any, ...], weights: Tensor, inputs: Tensor, rows: int) -> bool:
        def traced(weights: Tensor, inputs: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
            return push_forward(self.function, weights, inputs, directions)

        directions = torch.zeros(rows, len(weights), dtype=weights.dtype, device=weights.device)
        try:
            graph = make_fx(functionalize(traced, remove="mutations"))(weights, inputs, directions)
        except RuntimeError as error:
            self._fall_back(f"it cannot be traced ({str(error).splitlines()[0]})")
            return False
        primal, tangent = split(simplify(graph))
        # A branch taken on values would be baked into the trace: another batch shows it.
        other = inputs.flip(0)
        with sdpa_kernel(SDPBackend.MATH):
            expected = self.function(weights, other)
        if not torch.allclose(primal(weights, other)[0], expected, rtol=1e-3, atol=1e-5, equal_nan=True):
            self._fall_back("its computation depends on the values of its inputs")
            return False
        self._traced[key] = (primal, tangent)
        return True

    def _fall_back(self, reason: str) -> None:
        self.staged = False
        log.warning("the network is linearized by a plain forward-mode product a chunk, which is slower: %s", reason)
