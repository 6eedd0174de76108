"""Finding the linear map with which a language model ends."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from eigen_lightning.curvature.readout import Readout


def readout_of(model: Any) -> Readout | None:
    """The unembedding of a Hugging Face language model inside a bridge; None where it is no plain linear layer."""
    component = model.get_output_embeddings()
    head = getattr(component, "original_component", component)
    if type(head) is not nn.Linear:
        return None
    # The bridge puts a buffer of zeros where a model has no bias, and only there.
    bias = head.bias if isinstance(head.bias, nn.Parameter) else None
    return Readout(head.weight, bias)


def why_no_readout(model: Any, chosen: Iterable[Tensor]) -> str | None:
    """Why the logits can not be pulled back through a readout; None where they can.

    Whether anything but the unembedding stands between the last hidden state and the logits (a soft-cap, a scale) is
    found by trying: the unembedding is given a large made-up input in one short forward pass.

    Args:
        model: the Hugging Face language model inside a bridge, in evaluation mode.
        chosen: the chosen parameters themselves.
    """
    readout = readout_of(model)
    if readout is None:
        return f"the network ends in {type(model.get_output_embeddings()).__name__}, not in a linear readout"
    if any(parameter is readout.weight or parameter is readout.bias for parameter in chosen):
        return "a chosen parameter lies in the readout, or is tied to it"
    if model.base_model is model:
        return f"{type(model).__name__} has no part that ends before the readout"
    if not _ends_in(model, readout):
        return (
            f"{type(model).__name__} does more to its last hidden state than the linear readout (a soft-cap, a scale)"
        )
    return None


@torch.no_grad()
def _ends_in(model: Any, readout: Readout) -> bool:
    """Whether the unembedding is given the last hidden state, and the logits are what it returns."""
    tokens = torch.zeros(1, 2, dtype=torch.long, device=readout.weight.device)
    made_up = torch.randn(1, 2, readout.weight.shape[1], generator=torch.Generator().manual_seed(0)).to(readout.weight)
    # Logits of about 100: far into the bend of any soft-cap, and far from where a scale could pass for rounding.
    made_up = made_up * (100 / readout(made_up).std())
    given: list[Tensor] = []

    def swap(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given.append(inputs[0])
        return (made_up, *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(swap)
    try:
        logits = model(input_ids=tokens, use_cache=False).logits
    finally:
        handle.remove()
    last = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    return len(given) == 1 and _close(given[0], last) and _close(logits, readout(made_up))


def _close(got: Tensor, expected: Tensor) -> bool:
    tolerance = 10 * torch.finfo(expected.dtype).eps * expected.abs().max().item()
    return got.shape == expected.shape and torch.allclose(got.to(expected), expected, rtol=0, atol=tolerance)
