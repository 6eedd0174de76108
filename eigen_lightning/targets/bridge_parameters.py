"""The real parameters of a bridge: the names that TransformerLens gives them, and the places that hold them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

WRAPPED = "_original_component"

_PROJECTIONS = {
    "attn": {"q": "Q", "k": "K", "v": "V", "o": "O"},
    "mlp": {"in": "in", "out": "out", "gate": "gate"},
}
_WHOLE = {"embed": {"weight": "W_E"}, "pos_embed": {"weight": "W_pos"}, "unembed": {"weight": "W_U", "bias": "b_U"}}


def parameter_names(bridge: Any) -> dict[str, str]:
    """TransformerLens names of a bridge's parameters, and their paths in ``bridge.named_parameters()``.

    The names are read off the bridge's tree of components, not off its ``tl_named_parameters()``: those are reshaped,
    zero-filled or (with grouped key-value heads) expanded copies, which no longer share storage with the parameter.
    A parameter without such a name keeps its path in the model. Left out is what the logits do not depend on, such as
    the fused query-key-value weight of GPT-2, which the bridge splits into three and then never reads again.

    Args:
        bridge: a ``TransformerBridge`` of a causal language model.

    Returns:
        name to path, ordered as ``bridge.named_parameters()``. A tied parameter has one name, that of the embedding.
    """
    by_identity: dict[int, str] = {}
    for path, component, parent in _components(bridge):
        wrapped = component._modules.get(WRAPPED)
        if wrapped is not None:
            for attribute, parameter in wrapped.named_parameters(recurse=False):
                name = _transformer_lens_name(path, component, parent, attribute)
                if name is not None:
                    by_identity.setdefault(id(parameter), name)
    used = _paths_the_logits_depend_on(bridge.original_model)
    names: dict[str, str] = {}
    for path, parameter in bridge.named_parameters():
        if path in used:
            names[by_identity.get(id(parameter), path.replace(f"{WRAPPED}.", ""))] = path
    return names


def slots(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Every place that holds a parameter, once: several where it is tied.

    ``functional_call`` must be given exactly these with ``tie_weights=False``. The bridge reaches the same layer by
    several paths, each of which ``tie_weights=True`` takes for a tied weight of its own; it then swaps the one place
    several times and restores a value of its own making: the model keeps the weights of the call.

    Returns:
        path in ``model.named_parameters()`` to the paths of all the places, the same path first.
    """
    places: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append(f"{prefix}.{attribute}" if prefix else attribute)
    return {paths[0]: tuple(paths) for paths in places.values()}


def _components(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Every component of the bridge: its TransformerLens path, itself and what holds it; not what they wrap."""
    for name, child in module._modules.items():
        if child is None or name == WRAPPED:
            continue
        yield f"{prefix}{name}", child, module
        yield from _components(child, f"{prefix}{name}.")


def _transformer_lens_name(path: str, component: nn.Module, parent: nn.Module, attribute: str) -> str | None:
    from transformer_lens.model_bridge import generalized_components as kinds

    if path in _WHOLE:
        own = _WHOLE[path].get(attribute)
        return own and f"{path}.{own}"
    if attribute not in ("weight", "bias"):
        return None
    if isinstance(component, kinds.NormalizationBridge | kinds.RMSNormalizationBridge):
        return f"{path}.{attribute[0]}"
    holder, _, leaf = path.rpartition(".")
    suffix = _PROJECTIONS.get(holder.rpartition(".")[2], {}).get(leaf)
    # The gate of a mixture of experts is its router, not the gate projection that W_gate names.
    if suffix is None or isinstance(parent, kinds.MoEBridge):
        return None
    return f"{holder}.{'W' if attribute == 'weight' else 'b'}_{suffix}"


@torch.enable_grad()
def _paths_the_logits_depend_on(model: Any) -> set[str]:
    """Follow the graph of one short forward pass back to its leaves; no gradient is computed or stored."""
    leaves = {path: tensor.detach().requires_grad_() for path, tensor in model.named_parameters()}
    everywhere = {place: leaves[path] for path, places in slots(model).items() for place in places}
    tokens = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
    arguments = {"input_ids": tokens, "use_cache": False}
    logits = functional_call(model, everywhere, (), arguments, tie_weights=False).logits
    reached = _leaves(logits)
    return {path for path, leaf in leaves.items() if id(leaf) in reached}


def _leaves(output: Tensor) -> set[int]:
    found: set[int] = set()
    seen: set[Any] = set()
    pending: list[Any] = [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        pending.extend(parent for parent, _ in node.next_functions)
    return found
