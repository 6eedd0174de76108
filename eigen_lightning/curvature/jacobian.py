"""The Jacobian of a batch as a matrix, one row for each number of the outputs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, vmap

from eigen_lightning.curvature.products import Function, Products, exact_kernels
from eigen_lightning.run.seeding import derive_seed

NUMBERS_AT_ONCE = 2**22
"""Numbers of the matrix that are computed in one go."""


def moving_outputs(products: Products, size: int) -> Int[Tensor, " m"]:
    """Which numbers of the outputs, counted over the whole batch, change with any parameter at all.

    The derivative along a random direction is zero where the gradient is, and else only with probability zero.
    """
    outputs = products.outputs
    generator = torch.Generator(device=outputs.device).manual_seed(derive_seed(0, "outputs that move"))
    probes = torch.randn(2, size, generator=generator, dtype=outputs.dtype, device=outputs.device)
    with torch.no_grad():
        return products.push(probes).flatten(1).any(0).nonzero().squeeze(1)


def rows_by_reverse_mode(
    function: Function, origin: Float[Tensor, " P"], inputs: Tensor, outputs: Tensor, chosen: Int[Tensor, " m"]
) -> Float[Tensor, "m P"]:
    """The gradients of single numbers of the outputs, each from its own sample alone.

    Costs one pass of one sample a row, where forward mode costs P passes of all samples: a batch on which few outputs
    move (a ReLU, sparse samples) takes a small part of it.

    Raises:
        RuntimeError: torch's, where the function cannot be batched over samples.
    """
    per_sample = outputs[0].numel()

    def gradient(sample: Tensor, number: Tensor) -> Tensor:
        return grad(lambda w: function(w, sample[None]).flatten().gather(0, number[None]).squeeze(0))(origin)

    with exact_kernels():
        parts = [
            vmap(gradient)(inputs[part // per_sample], part % per_sample)
            for part in chosen.split(max(1, NUMBERS_AT_ONCE // len(origin)))
        ]
    return torch.cat(parts).detach() if parts else origin.new_zeros(0, len(origin))


def rows_by_forward_mode(
    products: Products, size: int, chosen: Int[Tensor, " m"], at_once: int
) -> Float[Tensor, "m P"]:
    """The same from derivatives along each parameter."""
    identity = torch.eye(size, dtype=products.outputs.dtype, device=products.outputs.device)
    with torch.no_grad():
        return torch.cat([products.push(part).flatten(1)[:, chosen] for part in identity.split(at_once)]).T


def differentiates_samples_alone(function: Function, origin: Float[Tensor, " P"], inputs: Tensor) -> bool:
    """Whether :func:`rows_by_reverse_mode` works on a function; tried on two samples."""
    with torch.no_grad():
        outputs = function(origin, inputs[:2])
    try:
        rows_by_reverse_mode(function, origin, inputs[:2], outputs, torch.arange(2, device=outputs.device))
    # What torch raises where an operation cannot be batched over samples: values that decide shapes, in-place writes.
    except (RuntimeError, NotImplementedError):
        return False
    return True
