"""The reference: d2D by two nested products, for any divergence."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vjp, vmap

from eigen_lightning.curvature.divergence import Divergence
from eigen_lightning.curvature.memory import is_out_of_memory
from eigen_lightning.curvature.products import Function, exact_kernels
from eigen_lightning.run.errors import UserError


def nested_quadratic(
    function: Function, divergence: Divergence, weights: Float[Tensor, " P"], inputs: Tensor
) -> tuple[Tensor, Callable[[Float[Tensor, "k P"]], Float[Tensor, "k *samples"]]]:
    """Outputs at W0, and the function from directions to d2D; differentiable in the directions.

    Forward mode over forward mode; where a part has no second forward-mode derivative (``silu_backward``), the second
    derivative by the step along u in reverse mode throughout: that of ``v -> d^2/de^2 sum_s v_s D_s(W0 + e u)``.

    Raises:
        UserError: where a part has no second derivative of either kind.
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

    def in_loop(one: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda directions: torch.stack([one(direction) for direction in directions])

    ways = [batched(one) for batched in (vmap, in_loop) for one in (forward_over_forward, reverse_over_reverse)]
    way = next((way for way in ways if _runs(way, weights)), None)
    if way is None:
        raise UserError(
            "expected a network that can be differentiated twice by curvature: nested, got one with a part that torch "
            "has no second derivative of: use curvature: gauss_newton, which needs the first alone"
        )

    def quadratic(directions: Tensor) -> Tensor:
        with exact_kernels():
            return way(directions)

    return reference, quadratic


def _runs(way: Callable[[Tensor], Tensor], weights: Float[Tensor, " P"]) -> bool:
    leaf = torch.ones_like(weights)[None].requires_grad_()
    try:
        with torch.enable_grad(), exact_kernels():
            way(leaf).sum().backward()
    # What torch raises where an operation lacks a derivative or a batching rule.
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        return False
    return True
