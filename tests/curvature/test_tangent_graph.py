"""Rewrites of the traced tangent pass: the same numbers with fewer operations."""

import torch
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from eigen_lightning.curvature.linearization import Linearizer, push_forward
from eigen_lightning.curvature.tangent_graph import simplify, split
from tests.networks import transformer_network, unit_rows

aten = torch.ops.aten


def traced(activation):
    """A two-layer network whose activation is written out, and its traced forward-mode product."""
    weight = torch.randn(5, 4, dtype=torch.float64)
    inputs = torch.randn(3, 4, dtype=torch.float64)

    def function(flat, x):
        return activation(x @ flat.view(5, 4).T) @ weight[:, :3]

    flat, rows = torch.randn(20, dtype=torch.float64), unit_rows(2, 20)
    push = functionalize(lambda w, x, u: push_forward(function, w, x, u), remove="mutations")
    return make_fx(push)(flat, inputs, rows), (flat, inputs, rows)


def tanh_gelu(x):
    return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def test_an_activation_written_out_becomes_one_multiplication() -> None:
    graph, (flat, inputs, rows) = traced(tanh_gelu)
    expected = graph(flat, inputs, rows)
    primal, tangent = split(simplify(graph))
    outputs, *coefficients = primal(flat, inputs)
    torch.testing.assert_close(outputs, expected[0])
    torch.testing.assert_close(tangent(rows, *coefficients), expected[1])
    elementwise = [node for node in tangent.graph.nodes if node.target in (aten.mul.Tensor, aten.add.Tensor)]
    assert [node.target for node in elementwise] == [aten.mul.Tensor]


def test_what_does_not_depend_on_the_directions_is_not_in_the_tangent_graph() -> None:
    graph, _ = traced(torch.tanh)
    _, tangent = split(simplify(graph))
    assert not [node for node in tangent.graph.nodes if node.target == aten.tanh.default]


def test_the_tangent_graph_is_linear() -> None:
    network = transformer_network()
    function = lambda w, x: network.hidden(network.space.unflatten(w), x)  # noqa: E731
    inputs = torch.randint(50, (3, 6))
    linearization = Linearizer(function).at(network.space.flatten(network.weights), inputs, 3)
    a, b = unit_rows(3, network.space.size), unit_rows(3, network.space.size)
    together = linearization.push(2 * a - 3 * b)
    torch.testing.assert_close(together, 2 * linearization.push(a) - 3 * linearization.push(b))


def test_no_sum_with_zero_is_left_over_from_parameters_that_do_not_move() -> None:
    """Only W_K moves: of the block's additions in the tangent pass, the residual ones and LayerNorm's stay."""
    network = transformer_network()
    function = lambda w, x: network.hidden(network.space.unflatten(w), x)  # noqa: E731
    linearizer = Linearizer(function)
    linearizer.at(network.space.flatten(network.weights), torch.randint(50, (3, 6)), 3)
    ((_, tangent),) = linearizer._traced.values()
    placeholders = {node for node in tangent.graph.nodes if node.op == "placeholder"}
    with_constants = [
        node
        for node in tangent.graph.nodes
        if node.target == aten.add.Tensor and any(term in placeholders for term in node.args[:2])
    ]
    assert with_constants == []
