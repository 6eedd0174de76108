"""A language model with edited weights, as plain transformers saves and loads it."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from eigen_lightning.run.errors import UserError
from eigen_lightning.targets import bridge_parameters, pretrained
from eigen_lightning.targets.transformer import Transformer


@torch.no_grad()
def edited_model(target: Transformer, step: Mapping[str, Tensor]) -> Any:
    """The Hugging Face model itself, a fresh copy in the target's precision, with ``step`` added to its weights.

    A bridge cannot be saved: it splits fused projections and holds layers by several paths. The step is written back to
    where each number came from instead, which is read off a bridge built around a model that holds positions for
    weights; so nothing here knows how any architecture fuses or transposes its projections.

    Args:
        target: loaded.
        step: by TransformerLens name, in the parameter's shape.

    Raises:
        UserError: where a chosen parameter is no part of the published weights.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target.name, dtype=target.dtype)
    weights = [parameter.view(-1) for parameter in model.parameters()]
    starts = torch.tensor([0, *(len(weight) for weight in weights)]).cumsum(0)
    for name, places in _places(target, list(step)).items():
        added = step[name].flatten().to(weights[0].device)
        owner = torch.bucketize(places, starts, right=True) - 1
        for index in owner.unique().tolist():
            here = owner == index
            weight, at = weights[index], places[here] - starts[index]
            weight[at] = (weight[at].to(added.dtype) + added[here]).to(weight.dtype)
    return model


def _places(target: Transformer, names: list[str]) -> dict[str, Int[Tensor, " n"]]:
    """Where each number of a parameter lies among all numbers of the Hugging Face model."""
    from transformers import AutoModelForCausalLM

    # Counts up to 2^53 are exact in float64.
    positions = AutoModelForCausalLM.from_pretrained(target.name, dtype=torch.float64)
    total = 0
    for parameter in positions.parameters():
        parameter.copy_(torch.arange(total, total + parameter.numel(), dtype=torch.float64).view_as(parameter))
        total += parameter.numel()
    bridge = pretrained.bridge_around(positions, target.name, torch.float64)
    by_path = dict(bridge.named_parameters())
    paths = bridge_parameters.parameter_names(bridge)
    places = {name: by_path[paths[name]].flatten() for name in names}
    for name, place in places.items():
        if not torch.equal(place, place.round()) or len(place.unique()) < len(place) or not 0 <= place.min() < total:
            raise UserError(
                f"expected parameters that the published model holds, got {name}, which the bridge computes from "
                "others: leave it out of `parameters`"
            )
    return {name: place.long() for name, place in places.items()}
