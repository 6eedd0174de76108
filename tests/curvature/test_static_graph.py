"""Traces of static networks: the same numbers with fewer operations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from eigen_lightning.curvature import MSE, Linearizer
from eigen_lightning.curvature.products import PlainProducts, forward_mode, products_for
from eigen_lightning.curvature.static_graph import DECOMPOSED, TracedProducts, simplify, split
from eigen_lightning.run.errors import UserError
from tests.networks import PLAIN, SmallNetwork, along, dense_hessian, transformer_network, unit_rows

aten = torch.ops.aten


def traced(activation: Callable[[Tensor], Tensor]) -> tuple[fx.GraphModule, tuple[Tensor, Tensor, Tensor]]:
    """A two-layer network whose activation is written out, and its traced forward-mode product."""
    weight = torch.randn(5, 4, dtype=torch.float64)
    inputs = torch.randn(3, 4, dtype=torch.float64)

    def function(flat: Tensor, x: Tensor) -> Tensor:
        return activation(x @ flat.view(5, 4).T) @ weight[:, :3]

    flat, rows = torch.randn(20, dtype=torch.float64), unit_rows(2, 20)
    push = functionalize(lambda w, x, u: forward_mode(function, w, x)(u), remove="mutations")
    return make_fx(push, DECOMPOSED)(flat, inputs, rows), (flat, inputs, rows)


def tanh_gelu(x: Tensor) -> Tensor:
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


ARITHMETIC: dict[str, Callable[[Tensor], Tensor]] = {
    "add with alpha": lambda x: torch.add(x, x.sin(), alpha=2),
    "add of a constant with alpha": lambda x: torch.add(x, torch.ones_like(x), alpha=2),
    "constant added to with alpha": lambda x: torch.add(torch.ones_like(x), x, alpha=2),
    "constant added to with alpha, then an activation": lambda x: torch.add(torch.ones_like(x), x, alpha=-3).tanh(),
    "sub with alpha": lambda x: torch.sub(x, x.sin(), alpha=2),
    "constant minus": lambda x: 1 - x.tanh(),
    "constant minus with alpha": lambda x: torch.sub(torch.ones_like(x), x, alpha=2),
    "number minus": lambda x: torch.rsub(x, 3, alpha=2),
    "negative": lambda x: -x * x.cos(),
    "divided": lambda x: x / (2 + x.square()),
    "divided by a number": lambda x: x / 3 + x.exp(),
    "in place": lambda x: x.clone().mul_(2).add_(x.sin(), alpha=3),
    "expanded": lambda x: x + x.mean(-1, keepdim=True),
    "expanded constant": lambda x: x * torch.ones(1, dtype=x.dtype) + torch.zeros(3, 1, dtype=x.dtype),
    "joined": lambda x: torch.cat([x, torch.zeros_like(x)], -1)[..., :5],
    "joined with nothing": lambda x: torch.cat([x, x.new_zeros(3, 0)], -1),
    "stacked": lambda x: torch.stack([x, x.sin(), torch.ones_like(x)]).sum(0),
    "where": lambda x: torch.where(torch.arange(5) > 2, x, torch.zeros_like(x)),
    "addmm": lambda x: torch.addmm(torch.ones_like(x), x, torch.ones(5, 5, dtype=x.dtype), beta=2, alpha=0.5),
    "addcmul": lambda x: torch.addcmul(x, x.sin(), x.cos(), value=2),
    "lerp": lambda x: torch.lerp(x, x.sin(), 0.3),
    "softmax": lambda x: x.softmax(-1),
    "layer norm": lambda x: nn.functional.layer_norm(x, (5,)),
    "dtype and back": lambda x: x.to(torch.float32).to(torch.float64) * 2,
    "copied into": lambda x: torch.zeros_like(x).copy_(x) + x.exp(),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_every_rewrite_leaves_the_numbers(name: str) -> None:
    graph, arguments = traced(ARITHMETIC[name])
    expected = graph(*arguments)
    primal, tangent = split(simplify(graph))
    outputs, *coefficients = primal(*arguments[:2])
    torch.testing.assert_close(outputs, expected[0])
    torch.testing.assert_close(tangent(arguments[2], *coefficients), expected[1])


def test_a_static_network_that_adds_with_alpha_is_right_on_later_batches() -> None:
    class Alpha(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.add(torch.ones(4, dtype=x.dtype), (x @ self.weight.T).tanh(), alpha=2)

    network = SmallNetwork(Alpha())
    network.static_graph = True
    first, later = (torch.randn(5, 3, dtype=torch.float64) for _ in range(2))
    linearizer = Linearizer.prepare(network, MSE(), first, traces=PLAIN)
    assert isinstance(linearizer.products, TracedProducts)
    U = unit_rows(3, 12)
    torch.testing.assert_close(linearizer(later).d2D(U), along(dense_hessian(network, MSE(), later), U))


def products(rows: int, inputs: Tensor) -> tuple[PlainProducts, TracedProducts, Tensor]:
    network = transformer_network()
    origin = network.origin
    plain = products_for(lambda w, x: network.hidden(network.space.unflatten(w), x), origin, inputs[:1])
    return plain, TracedProducts.trace(plain, origin, inputs, rows), origin


def test_a_trace_serves_other_values_other_shapes_and_any_number_of_directions_and_is_linear() -> None:
    plain, trace, origin = products(3, torch.randint(50, (3, 6)))
    for shape in ((3, 6), (3, 6), (2, 6), (3, 4)):
        inputs = torch.randint(50, shape)
        ours, expected = trace(origin, inputs), plain(origin, inputs)
        torch.testing.assert_close(ours.outputs, expected.outputs)
        for count in (1, 3, 5):
            U = unit_rows(count, len(origin))
            torch.testing.assert_close(ours.push(U), expected.push(U))
    a, b = unit_rows(3, len(origin)), unit_rows(3, len(origin))
    torch.testing.assert_close(ours.push(2 * a - 3 * b), 2 * ours.push(a) - 3 * ours.push(b))
    # Of the block's additions in the tangent pass none is left with a constant: nothing but W_K moves.
    placeholders = {node for node in trace.tangent.graph.nodes if node.op == "placeholder"}
    additions = [node for node in trace.tangent.graph.nodes if node.target == aten.add.Tensor]
    assert not [node for node in additions if any(term in placeholders for term in node.args[:2])]


def test_a_network_declared_static_that_is_not_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.weight.T) * (2.0 if bool(x[0, 0] > 0.5) else 3.0)

    network, inputs = SmallNetwork(Branching()), torch.rand(4, 3, dtype=torch.float64)
    network.static_graph = True
    inputs[0, 0], inputs[-1, -1] = 0.9, 0.1
    with pytest.raises(UserError, match="static_graph"):
        Linearizer.prepare(network, MSE(), inputs, traces=PLAIN)
