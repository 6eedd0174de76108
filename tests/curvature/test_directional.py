"""d2D by independent routes: one product, two, finite differences, the dense Hessian, and invariances."""

import pytest
import torch
from torch import Tensor
from torch.func import hessian

from eigen_lightning.curvature import KL, MSE, CrossEntropy, Curvature, Divergence, GaussNewton, Nested
from eigen_lightning.run.errors import UserError
from tests.networks import TMS, XOR, SmallNetwork, transformer_network, unit_rows

KEY = "body.key.weight"


def xor() -> tuple[SmallNetwork, Divergence, Tensor]:
    return SmallNetwork(XOR()), MSE(), torch.rand(7, 2, dtype=torch.float64)


def tms() -> tuple[SmallNetwork, Divergence, Tensor]:
    return SmallNetwork(TMS()), MSE(), torch.rand(7, 5, dtype=torch.float64)


def transformer_kl() -> tuple[SmallNetwork, Divergence, Tensor]:
    return transformer_network(), KL(), torch.randint(50, (3, 6))


def transformer_cross_entropy() -> tuple[SmallNetwork, Divergence, Tensor]:
    return transformer_network("body.*"), CrossEntropy(), torch.randint(50, (3, 6))


def transformer_mse() -> tuple[SmallNetwork, Divergence, Tensor]:
    return transformer_network("*.weight"), MSE(), torch.randint(50, (3, 6))


SYSTEMS = [xor, tms, transformer_kl, transformer_cross_entropy, transformer_mse]


def evaluated(curvature: Curvature, inputs: Tensor, directions: Tensor) -> Tensor:
    return curvature.at(inputs, len(directions))(directions)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("readout", ["auto", "off"])
@pytest.mark.parametrize("staged", [True, False])
def test_gauss_newton_equals_nested(system, readout: str, staged: bool) -> None:
    network, divergence, inputs = system()
    if "unembed.weight" in network.space.names:
        network.readout = None
    directions = unit_rows(4, network.space.size)
    gauss_newton = GaussNewton(network, divergence, readout=readout, staged=staged)
    one, two = (evaluated(c, inputs, directions) for c in (gauss_newton, Nested(network, divergence)))
    assert one.shape == (4, *inputs.shape[:1], *network.outputs(network.weights, inputs).shape[1:-1])
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10 * float(two.max()))
    assert one.min() >= 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_gradients_of_both_agree(system) -> None:
    network, divergence, inputs = system()
    if "unembed.weight" in network.space.names:
        network.readout = None
    gradients = []
    for curvature in (GaussNewton(network, divergence), Nested(network, divergence)):
        directions = unit_rows(3, network.space.size)
        directions = torch.linspace(-1, 1, directions.numel(), dtype=torch.float64).view_as(directions).requires_grad_()
        evaluated(curvature, inputs, directions).square().sum().backward()
        gradients.append(directions.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-10 * float(gradients[1].abs().max()))


@pytest.mark.parametrize("system", SYSTEMS)
def test_finite_differences(system) -> None:
    network, divergence, inputs = system()
    directions = unit_rows(3, network.space.size)
    reference = network.outputs(network.weights, inputs)
    origin = network.space.flatten(network.weights)
    step = 1e-3
    for direction, exact in zip(directions, evaluated(Nested(network, divergence), inputs, directions), strict=True):
        moved = [
            divergence.value(network.outputs(network.space.unflatten(origin + s * direction), inputs), reference)
            for s in (step, -step)
        ]
        torch.testing.assert_close(sum(moved) / step**2, exact, rtol=1e-4, atol=1e-5 * float(exact.max()))


@pytest.mark.parametrize("system", [xor, tms])
def test_dense_hessian(system) -> None:
    network, divergence, inputs = system()
    directions = unit_rows(5, network.space.size)
    reference = network.outputs(network.weights, inputs)
    origin = network.space.flatten(network.weights)
    dense = hessian(lambda w: divergence.value(network.outputs(network.space.unflatten(w), inputs), reference))(origin)
    expected = torch.einsum("kp,spq,kq->ks", directions, dense, directions)
    torch.testing.assert_close(evaluated(GaussNewton(network, divergence), inputs, directions), expected)


def test_sign_of_a_direction_does_not_matter() -> None:
    network, divergence, inputs = tms()
    directions = unit_rows(3, network.space.size)
    curvature = GaussNewton(network, divergence)
    assert torch.equal(evaluated(curvature, inputs, directions), evaluated(curvature, inputs, -directions))


@pytest.mark.parametrize("name", [KEY, "body.query.weight"])
def test_the_first_position_of_a_causal_transformer_has_no_curvature_in_keys_and_queries(name: str) -> None:
    network = transformer_network(name)
    values = evaluated(GaussNewton(network, KL()), torch.randint(50, (3, 6)), unit_rows(4, network.space.size))
    assert values[..., 0].abs().max() == 0
    assert values[..., 1:].max() > 0


def test_one_vector_added_to_every_key_changes_nothing() -> None:
    network = transformer_network("body.key.bias")
    values = evaluated(GaussNewton(network, KL()), torch.randint(50, (3, 6)), unit_rows(4, network.space.size))
    assert values.abs().max() < 1e-25


def test_a_linear_network_has_the_same_curvature_everywhere() -> None:
    network = SmallNetwork(torch.nn.Linear(3, 2, dtype=torch.float64), ("bias",))
    values = evaluated(GaussNewton(network, MSE()), torch.randn(5, 3, dtype=torch.float64), unit_rows(2, 2))
    torch.testing.assert_close(values, torch.ones(2, 5, dtype=torch.float64))


def test_fewer_directions_than_rows_are_padded_without_a_trace_in_the_values() -> None:
    network, divergence, inputs = transformer_kl()
    directions = unit_rows(5, network.space.size)
    evaluate = GaussNewton(network, divergence).at(inputs, 3)
    parts = torch.cat([evaluate(part) for part in directions.split(3)])
    torch.testing.assert_close(parts, evaluated(GaussNewton(network, divergence), inputs, directions))


def test_the_linearization_serves_other_batches_of_its_shape() -> None:
    network, divergence, _ = transformer_kl()
    curvature, directions = GaussNewton(network, divergence), unit_rows(2, network.space.size)
    for _ in range(2):
        inputs = torch.randint(50, (3, 6))
        expected = evaluated(Nested(network, divergence), inputs, directions)
        torch.testing.assert_close(evaluated(curvature, inputs, directions), expected)
    assert len(curvature.linearizer._traced) == 1


def test_a_network_that_branches_on_values_is_still_right(caplog: pytest.LogCaptureFixture) -> None:
    class Branching(TMS):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if bool(x[0, 0] > 0.5) else -super().forward(x)

    network = SmallNetwork(Branching())
    curvature, directions = GaussNewton(network, MSE()), unit_rows(2, network.space.size)
    for first in (0.9, 0.1):
        inputs = torch.rand(4, 5, dtype=torch.float64)
        inputs[0, 0], inputs[-1, 0] = first, 1 - first
        expected = evaluated(Nested(network, MSE()), inputs, directions)
        torch.testing.assert_close(evaluated(curvature, inputs, directions), expected)
    assert "plain forward-mode product" in caplog.text


def test_a_divergence_with_a_slope_is_refused_by_gauss_newton_and_taken_by_nested() -> None:
    class Sum(Divergence):
        def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
            return (outputs - reference).sum(-1)

    network, _, inputs = xor()
    directions = unit_rows(2, network.space.size)
    with pytest.raises(UserError, match=r"Sum is up to 1 there: use `curvature: nested`"):
        evaluated(GaussNewton(network, Sum()), inputs, directions)
    values = evaluated(Nested(network, Sum()), inputs, directions)
    assert values.shape == (2, 7)
    assert values.abs().max() > 0
