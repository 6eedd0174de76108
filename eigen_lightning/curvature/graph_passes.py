"""Rewrites of a traced forward-mode product that leave its value and take away work."""

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

ZEROS = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten._efficientzerotensor.default)

KEEP_ZERO = (
    aten.alias.default,
    aten._to_copy.default,
    aten.clone.default,
    aten.detach.default,
    aten.expand.default,
    aten.mean.dim,
    aten.neg.default,
    aten.permute.default,
    aten.reshape.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.sum.dim_IntList,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
)
"""Operations that make zeros of zeros."""

PRODUCTS = (aten.mul.Tensor, aten.mm.default, aten.bmm.default)
"""Operations that make zeros as soon as one factor is zero."""

BACKWARDS = (
    aten.gelu_backward.default,
    aten.sigmoid_backward.default,
    aten.silu_backward.default,
    aten.tanh_backward.default,
    aten.threshold_backward.default,
)
"""Derivatives of activations: linear in the first argument, element by element."""


def shape_of(node: Any) -> tuple[int, ...] | None:
    """The shape of what a node makes, where that is one tensor."""
    meta = node.meta.get("val", node.meta.get("tensor_meta")) if isinstance(node, fx.Node) else None
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def drop_zeros(graph: fx.Graph) -> None:
    """Leave out sums with tangents that are zero: those of parameters and inputs that no direction moves."""
    zero: set[fx.Node] = set()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if _is_zero(node, zero):
            zero.add(node)
        elif node.target in (aten.add.Tensor, aten.sub.Tensor):
            left, right = node.args[:2]
            if right in zero and shape_of(left) == shape_of(node):
                node.replace_all_uses_with(left)
            elif (
                left in zero
                and shape_of(right) == shape_of(node)
                and node.target == aten.add.Tensor
                and not node.kwargs
            ):
                node.replace_all_uses_with(right)
        elif node.target == aten.cat.default:
            parts = [part for part in node.args[0] if 0 not in (shape_of(part) or ())]
            if len(parts) == 1 and shape_of(parts[0]) == shape_of(node):
                node.replace_all_uses_with(parts[0])


def _is_zero(node: fx.Node, zero: set[fx.Node]) -> bool:
    if node.target in ZEROS:
        return True
    if node.target == aten.full.default:
        return bool(node.args[1] == 0)
    if node.target in KEEP_ZERO or node.target in BACKWARDS or node.target == aten.div.Tensor:
        return node.args[0] in zero
    if node.target in PRODUCTS:
        return any(factor in zero for factor in node.args)
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        return all(term in zero for term in node.args[:2])
    return False


def collapse_elementwise(graph: fx.Graph, moving: set[fx.Node]) -> None:
    """Make one multiplication of every chain of element-wise linear operations with a single source.

    ``c * x`` with c what the chain makes of ones: c does not depend on the directions, so it is computed once a
    batch. The tangent of an activation written out in Python becomes one operation.

    Args:
        graph: rewritten in place.
        moving: its nodes that depend on the directions; kept up to date.
    """
    source: dict[fx.Node, fx.Node] = {}
    members: dict[fx.Node, list[fx.Node]] = {}
    for node in [node for node in graph.nodes if node in moving]:
        inputs = [parent for parent in node.all_input_nodes if parent in moving]
        sources = {source.get(parent, parent) for parent in inputs}
        if len(sources) == 1 and _is_elementwise(node, moving) and all(shape_of(i) == shape_of(node) for i in inputs):
            source[node] = sources.pop()
            before = dict.fromkeys(member for parent in inputs for member in members.get(parent, []))
            members[node] = [*before, node]
    images: dict[fx.Node, dict[fx.Node, fx.Node]] = {}
    for node, chain in members.items():
        leaves = any(source.get(user) is not source[node] for user in node.users)
        if leaves and len(chain) > 1:
            moving.add(_collapse(graph, node, chain, source[node], images.setdefault(source[node], {})))


def _is_elementwise(node: fx.Node, moving: set[fx.Node]) -> bool:
    if node.op != "call_function":
        return False
    arguments = node.args
    if node.target == aten.mul.Tensor:
        return sum(factor in moving for factor in arguments[:2] if isinstance(factor, fx.Node)) == 1
    if node.target in BACKWARDS or node.target == aten.div.Tensor:
        return arguments[0] in moving and not any(
            isinstance(argument, fx.Node) and argument in moving for argument in arguments[1:]
        )
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        return all(isinstance(term, fx.Node) and term in moving for term in arguments[:2])
    return node.target == aten.neg.default


def _collapse(
    graph: fx.Graph, node: fx.Node, chain: list[fx.Node], source: fx.Node, images: dict[fx.Node, fx.Node]
) -> fx.Node:
    """Replace a chain's end; ``images`` maps what has been made of the same source's ones so far."""
    meta = source.meta.get("val", source.meta.get("tensor_meta"))
    with graph.inserting_after(node):
        product = graph.call_function(aten.mul.Tensor, (source, source))
    product.meta.update(node.meta)
    with graph.inserting_before(product):
        if source not in images:
            kwargs = {"dtype": meta.dtype, "device": meta.device}
            images[source] = graph.call_function(aten.ones.default, ([1, *meta.shape[1:]],), kwargs)
        for member in chain:
            if member not in images:
                images[member] = graph.node_copy(member, lambda parent: images.get(parent, parent))
                images[member].meta.clear()
    node.replace_all_uses_with(product)
    product.args = (source, images[node])
    images[product] = images[node]
    return product
