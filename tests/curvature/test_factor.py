"""Hessians written out, and steepness part by part, against the routes that write nothing out."""

import pytest
import torch
from torch import Tensor, nn

from eigen_lightning.curvature import KL, MSE, CrossEntropy, Divergence, Factor, GaussNewton, Nested, PartwiseSteepness
from eigen_lightning.targets.toys.tms import TMSNetwork, TMSTarget
from tests.networks import TMS, XOR, SmallNetwork, transformer_network, unit_rows


class Classifier(nn.Module):
    """Twelve parameters and four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs) @ self.weight.T


CASES = [(XOR, 2, MSE()), (TMS, 5, MSE()), (Classifier, 3, KL()), (Classifier, 3, CrossEntropy())]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def factor_of(network: nn.Module, width: int, divergence: Divergence) -> tuple[Factor, Tensor, SmallNetwork]:
    small, inputs = SmallNetwork(network), torch.randn(6, width, dtype=torch.float64)
    return GaussNewton(small, divergence).factor(inputs), inputs, small


@pytest.mark.parametrize(("network", "width", "divergence"), CASES)
def test_curvature_and_trace_are_those_of_nested_products(network, width: int, divergence: Divergence) -> None:
    factor, inputs, small = factor_of(network(), width, divergence)
    size = small.space.size
    nested = Nested(small, divergence).at(inputs, size)
    rows = unit_rows(3, size)
    torch.testing.assert_close(factor.curvature(rows), nested(rows), rtol=1e-10, atol=1e-12)
    trace = nested(torch.eye(size, dtype=torch.float64)).sum(0)
    torch.testing.assert_close(factor.trace(), trace, rtol=1e-10, atol=1e-12)


def test_a_divergence_without_a_square_root_is_not_written_out() -> None:
    class Own(Divergence):
        def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
            return (outputs - reference).pow(2).sum(-1)

    curvature = GaussNewton(SmallNetwork(TMS()), Own())
    inputs, rows = torch.rand(4, 5, dtype=torch.float64), unit_rows(2, 15)
    assert not curvature.factorizes(inputs)
    nested = Nested(SmallNetwork(curvature.network.module), Own()).at(inputs, 2)(rows)
    torch.testing.assert_close(curvature.at(inputs, 2)(rows), nested)


@pytest.mark.parametrize("readout", ["auto", "off"])
def test_networks_with_positions_are_not_written_out(readout: str) -> None:
    network, inputs = transformer_network("body.norm1.bias"), torch.randint(50, (3, 6))
    assert network.space.size == 16
    curvature = GaussNewton(network, KL(), readout=readout)  # type: ignore[arg-type]
    assert not curvature.factorizes(inputs)
    rows = unit_rows(2, 16)
    torch.testing.assert_close(curvature.at(inputs, 2)(rows), Nested(network, KL()).at(inputs, 2)(rows))


@pytest.mark.parametrize("in_numpy", [True, False])
def test_steepness_and_gradient_of_each_part_are_autograds(in_numpy: bool) -> None:
    factor, inputs, small = factor_of(TMS(), 5, MSE())
    weights = torch.tensor([[0.5, 0.0, 2.0], [1.0, 0.25, 3.0]], dtype=torch.float64)
    partwise = PartwiseSteepness(factor.unflatten((2, 3)), weights, 4)
    assert len(partwise) == 2
    if not in_numpy:
        # As on accelerators.
        partwise._in_numpy = None
    evaluate = Nested(small, MSE()).at(inputs, 4)
    for part, rows in enumerate(torch.arange(6).split(3)):
        directions = unit_rows(4, 15).requires_grad_()
        value = (evaluate(directions)[:, rows].square() * weights[part]).sum()
        expected = torch.autograd.grad(value, directions)[0]
        with torch.no_grad():
            torch.testing.assert_close(partwise.value(part, directions.detach()), value.detach())
            torch.testing.assert_close(partwise.gradient(part, directions.detach()), expected)


@pytest.mark.parametrize("chosen", [("*",), ("W",), ("b",)])
def test_closed_form_of_tms_is_its_jacobian(chosen: tuple[str, ...]) -> None:
    target = random_tms(4, 3, chosen)
    inputs = torch.randn(7, 4)
    jacobian = torch.autograd.functional.jacobian(
        lambda w: target.outputs(target.space.unflatten(w), inputs), target.space.flatten(target.weights)
    )
    outputs, found = target.jacobian(inputs)
    torch.testing.assert_close(found, jacobian.permute(2, 1, 0))
    torch.testing.assert_close(outputs, target.outputs(target.weights, inputs))


def test_a_closed_form_is_not_used_of_another_network() -> None:
    target = random_tms(4, 3, ("*",))
    target.network = nn.Sequential(target.network, nn.Tanh())
    assert target.jacobian(torch.randn(7, 4)) is None


def test_a_wrong_closed_form_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    target = random_tms(4, 3, ("*",))
    right, inputs = target.jacobian, torch.rand(5, 4)
    expected = GaussNewton(target, MSE()).factor(inputs).matrix
    target.jacobian = lambda inputs: (right(inputs)[0], 1.01 * right(inputs)[1])  # type: ignore[method-assign]
    curvature = GaussNewton(target, MSE())
    for _ in range(2):
        torch.testing.assert_close(curvature.factor(inputs).matrix, expected)
    assert caplog.text.count("Random.jacobian is not the derivative of its outputs") == 1


def random_tms(features: int, hidden: int, chosen: tuple[str, ...]) -> TMSTarget:
    class Random(TMSTarget):
        def network_with_weights(self, run) -> nn.Module:
            network = TMSNetwork(features, hidden)
            for parameter in network.parameters():
                nn.init.normal_(parameter)
            return network

    target = Random(features, hidden, parameters=chosen)
    target.load(None)  # type: ignore[arg-type]
    return target
