"""The reference: d2D by two nested products, for any divergence."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vjp, vmap

from eigen_lightning.curvature.divergence import Divergence
from eigen_lightning.curvature.products import Function, exact_kernels


def nested_quadratic(
    function: Function, divergence: Divergence, weights: Float[Tensor, " P"], inputs: Tensor
) -> tuple[Tensor, Callable[[Float[Tensor, "k P"]], Float[Tensor, "k *samples"]]]:
    """Outputs at W0, and the function from directions to d2D; differentiable in the directions.

    Forward mode over forward mode; where a part has no second forward-mode derivative (``silu_backward``), the second
    derivative by the step along u in reverse mode throughout: that of ``v -> d^2/de^2 sum_s v_s D_s(W0 + e u)``.
    """
    with torch.no_grad(), exact_kernels():
        reference = function(weights, inputs)

    def moved(step: Tensor, direction: Tensor) -> Tensor:
        return divergence.value(function(weights + step * direction, inputs), reference)

    zero = torch.zeros((), dtype=weights.dtype, device=weights.device)

    def forward_over_forward(direction: Tensor) -> Tensor:
        one = torch.ones_like(zero)
        return jvp(lambda e: jvp(lambda at: moved(at, direction), (e,), (one,))[1], (zero,), (one,))[1]

    def reverse_over_reverse(direction: Tensor) -> Tensor:
        def first(e: Tensor, v: Tensor) -> Tensor:
            return vjp(lambda at: moved(at, direction), e)[1](v)[0]

        ones = torch.ones(reference.shape[:-1], dtype=weights.dtype, device=weights.device)
        second = lambda v: vjp(lambda e: first(e, v), zero)[1](torch.ones_like(zero))[0]  # noqa: E731
        _, pull = vjp(second, ones)  # type: ignore[misc]
        return pull(torch.ones_like(zero))[0]

    def runs(one: Callable[[Tensor], Tensor]) -> bool:
        try:
            leaf = torch.ones_like(weights)[None].requires_grad_()
            with torch.enable_grad(), exact_kernels():
                vmap(one)(leaf).sum().backward()
        # What torch raises where an operation lacks a derivative.
        except (RuntimeError, NotImplementedError):
            return False
        return True

    one = forward_over_forward if runs(forward_over_forward) else reverse_over_reverse

    def quadratic(directions: Tensor) -> Tensor:
        with exact_kernels():
            return vmap(one)(directions)

    return reference, quadratic
