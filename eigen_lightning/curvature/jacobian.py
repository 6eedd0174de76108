"""The Jacobian of a batch as a matrix, one row for each number of the outputs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, vmap

from eigen_lightning.curvature.divergence import Divergence
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


def trace_of_rows(
    divergence: Divergence, rows: Float[Tensor, "numbers P"], outputs: Float[Tensor, "*samples n"]
) -> Float[Tensor, "*samples"]:
    """Each sample's trace of ``J^T H_out J``, its Jacobian given: the sum of d2D along each parameter."""
    total = rows.new_zeros(outputs.shape[:-1])
    for columns in rows.split(max(1, NUMBERS_AT_ONCE // len(rows)), 1):
        total += divergence.quadratic_form(columns.T.unflatten(1, outputs.shape), outputs).sum(0)
    return total


def trace_by_reverse_mode(
    function: Function,
    divergence: Divergence,
    origin: Float[Tensor, " P"],
    inputs: Tensor,
    outputs: Float[Tensor, "*samples n"],
    chosen: Int[Tensor, " m"],
) -> Float[Tensor, "*samples"]:
    """Each sample's trace, exact, without holding the Jacobian of more than a few samples at a time.

    Args:
        function: the network.
        divergence: D.
        origin: W0 of the chosen parameters.
        inputs: a batch whose samples do not depend on each other.
        outputs: at W0.
        chosen: numbers of the outputs that the trace is the sum over: all, where H_out is not diagonal.
    """
    diagonal = divergence.diagonal(outputs)
    if diagonal is not None:
        squares = [
            rows_by_reverse_mode(function, origin, inputs, outputs, part).square().sum(1)
            for part in chosen.split(max(1, NUMBERS_AT_ONCE // len(origin)))
        ]
        weights = diagonal.flatten()[chosen] * torch.cat([*squares, origin.new_zeros(0)])
        samples = outputs.shape[:-1]
        return weights.new_zeros(samples.numel()).index_add(0, chosen // outputs.shape[-1], weights).view(samples)
    at_once = max(1, NUMBERS_AT_ONCE // (outputs[0].numel() * len(origin)))
    traces = []
    for some, of_some in zip(inputs.split(at_once), outputs.split(at_once), strict=True):
        every = torch.arange(of_some.numel(), device=outputs.device)
        traces.append(trace_of_rows(divergence, rows_by_reverse_mode(function, origin, some, of_some, every), of_some))
    return torch.cat(traces)


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
