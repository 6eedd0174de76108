"""A traced forward-mode product, cut into what depends on the directions and what does not."""

from typing import Any

import torch
from torch import fx

from eigen_lightning.curvature.tangent_passes import collapse_elementwise, drop_zeros

aten = torch.ops.aten

SHAPE_KEEPING = (aten.expand.default, aten.reshape.default)
COPYING = (aten._to_copy.default, aten.detach.default, aten.alias.default, aten.lift_fresh.default)


def _meta(node: fx.Node) -> Any:
    return node.meta.get("val", node.meta.get("tensor_meta"))


def _changes_nothing(node: fx.Node) -> bool:
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    before, after = _meta(node.args[0]), _meta(node)
    if before is None or after is None or not hasattr(before, "shape") or not hasattr(after, "shape"):
        return False
    same = before.shape == after.shape and before.dtype == after.dtype
    if node.target in SHAPE_KEEPING:
        return same
    return node.target in COPYING and same and str(node.kwargs.get("device")) != "meta"


def _replace_copy(node: fx.Node) -> None:
    """What functionalization makes of an in-place copy has no derivative; the expanded source has."""
    source = node.args[1]
    with node.graph.inserting_before(node):
        expanded = node.graph.call_function(aten.expand.default, (source, list(_meta(node).shape)))
        expanded.meta.update(node.meta)
        if isinstance(source, fx.Node) and _meta(source).dtype != _meta(node).dtype:
            expanded = node.graph.call_function(aten._to_copy.default, (expanded,), {"dtype": _meta(node).dtype})
            expanded.meta.update(node.meta)
    node.replace_all_uses_with(expanded)


def simplify(module: fx.GraphModule) -> fx.GraphModule:
    """Take away what changes nothing: dead nodes, copies, sums with zero; see also ``tangent_passes``.

    Args:
        module: rewritten in place and returned.
    """
    graph = module.graph
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target == aten.copy.default:
            _replace_copy(node)
        elif node.target in (aten.view.default, aten._unsafe_view.default):
            # Strides may differ once copies are gone.
            node.target = aten.reshape.default
    for node in graph.nodes:
        if _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
    drop_zeros(graph)
    graph.eliminate_dead_code()
    directions = [node for node in graph.nodes if node.op == "placeholder"][-1]
    collapse_elementwise(graph, depending_on(directions))
    graph.eliminate_dead_code()
    module.recompile()
    return module


def depending_on(start: fx.Node) -> set[fx.Node]:
    """A node and everything computed from it, the graph's output aside."""
    found = {start}
    for node in start.graph.nodes:
        if node.op != "output" and any(parent in found for parent in node.all_input_nodes):
            found.add(node)
    return found


def split(module: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut ``(weights, inputs, directions) -> (outputs, tangents)`` in two.

    Returns:
        ``primal(weights, inputs) -> (outputs, *coefficients)`` and ``tangent(directions, *coefficients) -> tangents``,
        the second linear in the directions.
    """
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    directions = placeholders[-1]
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    outputs, tangents = output.args[0]
    moving = depending_on(directions)
    needed = [
        node
        for node in module.graph.nodes
        if node not in moving
        and node is not output
        and (any(user in moving for user in node.users) or node is tangents)
    ]
    primal, tangent = fx.Graph(), fx.Graph()
    in_primal: dict[fx.Node, fx.Node] = {}
    in_tangent = {directions: tangent.placeholder("directions")}
    for index, node in enumerate(needed):
        in_tangent[node] = tangent.placeholder(f"coefficient_{index}")
    for node in module.graph.nodes:
        if node is directions or node is output:
            continue
        if node in moving:
            in_tangent[node] = tangent.node_copy(node, in_tangent.__getitem__)
        else:
            in_primal[node] = primal.node_copy(node, in_primal.__getitem__)
    primal.output((in_primal[outputs], *map(in_primal.__getitem__, needed)))
    tangent.output(in_tangent[tangents])
    for graph in (primal, tangent):
        graph.eliminate_dead_code()
    return fx.GraphModule(module, primal), fx.GraphModule(module, tangent)
