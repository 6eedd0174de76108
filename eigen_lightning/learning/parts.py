"""A batch learned from in several steps, each on an equal part of it."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eigen_lightning.curvature import GaussNewton, PartwiseSteepness
from eigen_lightning.learning.scaled_curvature import ScaledCurvature


def split(batch: Any, parts: int) -> list[Any]:
    """Equal parts of a batch, in order."""
    if parts == 1:
        return [batch]
    return [type(batch)(*part) for part in zip(*(tensor.chunk(parts) for tensor in batch), strict=True)]


def representatives(
    inputs: Float[Tensor, "batch ..."], parts: int
) -> tuple[Int[Tensor, "parts kept"], Float[Tensor, "parts kept"]]:
    """Samples that stand for all: those that are not blank, and one blank one for all the blank ones of a part.

    Where features are sparse most inputs are zero throughout, and equal inputs have equal curvature: three in four of
    a toy model of superposition with 5 features of 5 %.

    Args:
        inputs: a batch that is cut in equal parts.
        parts: how many.

    Returns:
        Which samples of the batch, as many in each part as the part that needs most, and how many each stands for:
        none, where a part needs fewer.
    """
    blank = ~inputs.flatten(1).any(1).view(parts, -1)
    # Where a part has no blank sample this is its first sample, which is kept anyway.
    kept = (~blank).scatter_(1, blank.to(torch.uint8).argmax(1, keepdim=True), True)
    needed = kept.sum(1, keepdim=True)
    flat, place = kept.flatten().nonzero().squeeze(1), torch.arange(int(needed.amax()), device=inputs.device)
    which = flat[(needed.cumsum(0) - needed + place).clamp_max_(len(flat) - 1)]
    counts = torch.where(blank.flatten()[which], blank.sum(1, keepdim=True), 1) * (place < needed)
    return which, counts.to(inputs.dtype)


def steepness_of_parts(scaled: ScaledCurvature, batch: Any, parts: int, n_directions: int) -> PartwiseSteepness | None:
    """The mean steepness on each equal part of a batch, all prepared at once.

    Args:
        scaled: curvature in the losses' scale.
        batch: inputs and their identities.
        parts: how many.
        n_directions: K.

    Returns:
        None where the parameters are too many to write Hessians out.
    """
    curvature = scaled.curvature
    if not isinstance(curvature, GaussNewton) or not curvature.factorizes(batch.inputs):
        return None
    which, counts = representatives(batch.inputs, parts)
    factor = curvature.factor(batch.inputs[which.flatten()]).unflatten(which.shape)
    weights = counts * (parts / len(batch.inputs))
    if scaled.scale is not None:
        weights = weights / torch.as_tensor(scaled.scale.divisor(factor.trace())).square()
    return PartwiseSteepness(factor, weights, n_directions)
