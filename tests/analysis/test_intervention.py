"""Interventions against what is known of them: small steps are quadratic, a random direction selects nothing."""

import math

import pytest
import torch
from torch.func import functional_call, hessian

from eigen_lightning.analysis.intervention import (
    Curve,
    Intervention,
    Samples,
    divergences,
    equally_sensitive,
    intervene,
    random_directions,
    steps,
)
from eigen_lightning.curvature import KL, MSE, Linearizer
from eigen_lightning.run.errors import UserError
from tests.networks import TMS, XOR, SmallNetwork, transformer_network, unit_rows

XOR_INPUTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)


def toy(name: str) -> tuple[SmallNetwork, torch.Tensor]:
    if name == "xor":
        return SmallNetwork(XOR()), XOR_INPUTS
    present = torch.rand(400, 5) < 0.3
    return SmallNetwork(TMS()), (torch.rand(400, 5) * present).double()


def d2d(network: SmallNetwork, directions: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return Linearizer.prepare(network, MSE(), inputs)(inputs).d2D(directions)


def test_steps_are_symmetric_and_span_the_predicted_divergences():
    deltas = steps(curvature=4.0, count=5, span=(1e-4, 1.0))
    assert torch.equal(deltas, -deltas.flip(0))
    predicted = deltas.square() * 2
    torch.testing.assert_close(predicted[5:], torch.logspace(-4, 0, 5, dtype=torch.float64))


@pytest.mark.parametrize("curvature", [0.0, -1.0, math.nan])
def test_a_direction_without_effect_is_refused(curvature):
    with pytest.raises(UserError, match="positive curvature"):
        steps(curvature, 5)


@pytest.mark.parametrize("name", ["xor", "tms"])
def test_small_steps_are_as_predicted_to_one_percent(name):
    network, inputs = toy(name)
    direction = unit_rows(1, network.space.size)[0]
    values = d2d(network, direction[None], inputs)[0]
    top = values.topk(1 if name == "xor" else 20).indices
    found = intervene(
        network,
        MSE(),
        direction,
        random_directions(1, network.space.size, 0),
        float(values[top].mean()),
        Samples(inputs[top]),
        Samples(inputs),
        span=(1e-8, 1.0),
    )
    half = len(found.deltas) // 2
    torch.testing.assert_close(found.learned.top[half], found.predicted[half], rtol=1e-2, atol=0)
    torch.testing.assert_close(found.learned.top[half - 1], found.predicted[half - 1], rtol=1e-2, atol=0)
    # The same of the dense Hessian, and of the random samples.
    origin = network.space.flatten(network.weights)
    reference = network.outputs(network.weights, inputs[top])

    def mean_divergence(weights: torch.Tensor) -> torch.Tensor:
        moved = functional_call(network.module, network.space.unflatten(weights), (inputs[top],))
        return (moved - reference).square().mean()

    curvature = direction @ hessian(mean_divergence)(origin) @ direction
    torch.testing.assert_close(found.predicted, found.deltas.square() * curvature / 2)
    expected = found.deltas[half].square() * values.mean() / 2
    torch.testing.assert_close(found.learned.random[half], expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("name", ["xor", "tms"])
def test_a_random_direction_selects_nothing(name):
    """Geometric mean over many directions, the top samples being those of another direction."""
    network, inputs = toy(name)
    size = network.space.size
    linearized = Linearizer.prepare(network, MSE(), inputs)(inputs)
    sensitivity = linearized.trace
    generator = torch.Generator().manual_seed(0)
    logs = []
    for k, direction in enumerate(unit_rows(20, size)):
        values = linearized.d2D(direction[None])[0]
        top = values.topk(1 if name == "xor" else 20).indices
        random = equally_sensitive(sensitivity, sensitivity[top], 20, generator)
        controls = random_directions(4, size, k)
        found = intervene(
            network,
            MSE(),
            direction,
            controls,
            float(values[top].mean()),
            Samples(inputs[top]),
            Samples(inputs[random]),
            3,
        )
        logs.append((math.log(found.selectivity), math.log(found.control_selectivity)))
    learned, control = torch.tensor(logs).mean(0).exp().tolist()
    # On XOR the four inputs differ in sensitivity, and four are all there are to draw from.
    assert 0.6 < control < 1.7
    assert learned > 1.5 * control


def test_matched_samples_are_as_sensitive_as_the_given_ones():
    sensitivity = torch.logspace(-3, 3, 2000)
    like = torch.tensor([0.01, 100.0])
    drawn = equally_sensitive(sensitivity, like, 400, torch.Generator().manual_seed(0))
    ratio = sensitivity[drawn] / like[torch.arange(400) % 2]
    assert ratio.min() > 0.9
    assert ratio.max() < 1.1
    assert len(drawn.unique()) > 30


def test_divergences_at_positions_are_those_of_whole_outputs():
    """Through the readout and at chosen positions only, against plain outputs."""
    network = transformer_network()
    tokens = torch.randint(0, 50, (6, 10))
    position = torch.tensor([1, 9, 4, 2, 7, 5])
    direction = unit_rows(1, network.space.size)[0]
    deltas = torch.tensor([-0.5, 0.0, 0.3], dtype=torch.float64)
    found = divergences(network, KL(), direction, deltas, Samples(tokens, position))
    origin = network.space.flatten(network.weights)
    reference = network.outputs(network.weights, tokens)
    for row, delta in zip(found, deltas, strict=True):
        moved = network.outputs(network.space.unflatten(origin + delta * direction), tokens)
        expected = KL().value(moved, reference)[torch.arange(6), position]
        torch.testing.assert_close(row, expected, rtol=1e-6, atol=1e-12)
    network.readout = None
    torch.testing.assert_close(divergences(network, KL(), direction, deltas, Samples(tokens, position)), found)


def made_up(top: list[float], predicted: list[float]) -> Intervention:
    deltas = steps(2.0, len(top) // 2, (1e-2, 1.0))
    curve = Curve(torch.tensor(top).double(), torch.tensor(top).double() / 5)
    return Intervention(deltas, torch.tensor(predicted).double(), curve, curve)


def test_asymmetry_departure_and_where_it_passes_a_tenth():
    #                  -1   -.3  -.1   .1   .3    1
    found = made_up([3.0, 1.0, 1.0, 1.0, 1.05, 1.15], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(found.asymmetry, torch.tensor([0.0, 0.05 / 2.05, -1.85 / 4.15]).double())
    assert found.selectivity == pytest.approx(5)
    # From 5 % off at 0.316 to 200 % off at 1, in the logarithm.
    expected = 10 ** (-0.5 + 0.5 * (0.1 - 0.05) / (2.0 - 0.05))
    assert found.departs_at() == pytest.approx(expected)
    assert made_up([1.0] * 6, [1.0] * 6).departs_at() is None
    assert made_up([2.0] * 6, [1.0] * 6).departs_at() == pytest.approx(0.1)


def test_random_directions_are_unit_and_repeatable():
    drawn = random_directions(3, 100, 7)
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert torch.equal(drawn, random_directions(3, 100, 7))
    assert not torch.equal(drawn, random_directions(3, 100, 8))
