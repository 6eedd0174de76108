"""The toy systems of known structure: forward passes by loops, training, truths, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eigen_lightning.analysis.truth import true_directions
from eigen_lightning.curvature import MSE, Linearizer
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import (
    GroupsTarget,
    ResidualMLPTarget,
    SquareTarget,
    TMCSTarget,
    TMSIdentityTarget,
    TMSTarget,
)
from eigen_lightning.targets.toys.regression import RegressionTarget
from tests.networks import SmallNetwork
from tests.toy_runs import trained

SMALL: dict[str, Any] = {
    "tmcs": lambda: TMCSTarget(4, 3),
    "tmcs relu": lambda: TMCSTarget(4, 3, "relu"),
    "groups": lambda: GroupsTarget(3, 2, 4),
    "square": lambda: SquareTarget(2, 5, 3),
    "residual": lambda: ResidualMLPTarget(4, 3, 6),
    "residual, orthogonal": lambda: ResidualMLPTarget(4, 3, 6, "orthogonal"),
}


def drawn(target: RegressionTarget) -> nn.Module:
    """The network with random weights, biases too."""
    network = target.build()
    constants = target.constants(torch.Generator().manual_seed(1))
    network.load_state_dict({name: torch.randn(shape) for name, shape in target.shapes().items()} | constants)
    return network


def by_loops(name: str, network: Any, x: list[float]) -> list[float]:
    """The network's outputs on one sample, number by number."""

    def times(matrix: Tensor, vector: list[float]) -> list[float]:
        return [sum(w * v for w, v in zip(row, vector, strict=True)) for row in matrix.tolist()]

    def plus(a: list[float], b: list[float]) -> list[float]:
        return [p + q for p, q in zip(a, b, strict=True)]

    def relu(vector: list[float]) -> list[float]:
        return [max(0.0, value) for value in vector]

    def gelu(vector: list[float]) -> list[float]:
        return [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in vector]

    if name.startswith("tmcs"):
        hidden = times(network.W1, x)
        return times(network.W2, relu(hidden) if "relu" in name else hidden)
    if name == "groups":
        return relu(plus(times(network.W2, times(network.W1, x)), network.b.tolist()))
    if name == "square":
        first = gelu(plus(times(network.W1, x), network.b1.tolist()))
        second = gelu(plus(times(network.W2, first), network.b2.tolist()))
        return plus(times(network.W3, second), network.b3.tolist())
    stream = times(network.E, x)
    stream = plus(stream, times(network.W_out, relu(times(network.W_in, stream))))
    return times(network.E.T, stream)


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_those_worked_out_number_by_number(name: str) -> None:
    target = SMALL[name]()
    network = drawn(target)
    inputs = torch.randn(5, target.n_inputs)
    expected = torch.tensor([by_loops(name, network, x) for x in inputs.tolist()])
    torch.testing.assert_close(network(inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_restarts_together_are_each_network_alone(name: str) -> None:
    target = SMALL[name]()
    constants = target.constants(torch.Generator().manual_seed(1))
    several = {key: torch.randn(3, *shape) for key, shape in target.shapes().items()}
    inputs = torch.randn(5, target.n_inputs)
    together = target.apply({**several, **constants}, inputs)
    for index in range(3):
        one = {key: tensor[index] for key, tensor in several.items()}
        torch.testing.assert_close(together[index], target.apply({**one, **constants}, inputs))


@pytest.mark.parametrize("name", SMALL)
def test_training_is_kept_and_read_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = SMALL[name]()
    monkeypatch.setattr(type(target), "steps", 300)
    target.max_error = 0.9
    trained(target, tmp_path)
    again = SMALL[name]()
    again.load(RunFolder(tmp_path))
    inputs = target.draw(64, torch.Generator().manual_seed(0))
    assert torch.equal(again.network(inputs), target.network(inputs))
    answers = target.answer(dict(target.network.named_buffers()), inputs)
    assert (target.network(inputs) - answers).square().mean() < 0.9 * answers.square().mean()


def test_training_that_stays_too_far_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TMCSTarget, "steps", 5)
    with pytest.raises(UserError, match=r"at most 1e-05 .* unexplained, the best of 8 leaves .*max_error"):
        TMCSTarget(4, 2, max_error=1e-5).train(0)


@pytest.mark.parametrize("name", SMALL)
def test_a_features_inputs_hold_it_alone(name: str) -> None:
    target = SMALL[name]()
    of_features = target.feature_inputs(6)
    assert len(of_features) == len(target.feature_names)
    for number, inputs in enumerate(of_features):
        feature = number // 2 if name == "square" else number
        mine = torch.zeros(target.n_inputs, dtype=torch.bool)
        mine[feature * target.group_size : (feature + 1) * target.group_size] = True
        assert inputs[:, ~mine].eq(0).all()
        assert inputs[:, mine].ne(0).all()
    if name == "square":
        assert (of_features[0] >= 0).all()
        assert (of_features[1] <= 0).all()


def test_the_truth_of_a_linear_map_is_known_in_closed_form() -> None:
    """W1 alone: feature i moves column i of W1 through W2, so that its direction is e_i times W2's leading right
    singular vector, with the share of that singular value."""
    target = TMCSTarget(4, 3, parameters=["W1"])
    network = SmallNetwork(drawn(target).double(), ("W1",))
    features = [inputs.double() for inputs in target.feature_inputs(5)]
    truth = true_directions(Linearizer.prepare(network, MSE(), features[0]), features)
    _, values, right = torch.linalg.svd(network.module.W2)
    for index, direction in enumerate(truth.subspaces[:, 0]):
        expected = torch.zeros(3, 4, dtype=torch.float64)
        expected[:, index] = right[0]
        assert float((direction @ expected.flatten()).abs()) == pytest.approx(1, abs=1e-6)
    share = float(values[0] ** 2 / values.square().sum())
    assert truth.eigenshare.tolist() == pytest.approx([share] * 4, rel=1e-6)
    assert truth.overlap == pytest.approx(0, abs=1e-6)


def test_truths_of_a_network_in_float32_are_those_of_the_hessian_written_out() -> None:
    """Rank ten of a hundred, as there are ten outputs: a Krylov space that is exhausted at once (MSE: 2 / n J^T J)."""
    for seed in range(4):
        torch.manual_seed(seed)
        network = SmallNetwork(drawn(TMCSTarget(10, 5, "relu")))
        features = TMCSTarget(10, 5, "relu").feature_inputs(20)
        truth = true_directions(Linearizer.prepare(network, MSE(), features[0]), features)
        W1, W2 = network.module.W1.double(), network.module.W2.double()
        for index, direction in enumerate(truth.subspaces[:, 0]):
            hidden = W1[:, index].relu()
            through = W2 * (W1[:, index] > 0)
            squares = features[index][:, index].double().square().mean() * 2 / 10
            own = (through @ through.T + hidden.square().sum() * torch.eye(10)) * squares
            assert float(truth.eigenshare[index]) == pytest.approx(
                float(torch.linalg.eigvalsh(own)[-1] / own.trace()), rel=1e-4
            )
            assert float(direction.norm()) == pytest.approx(1, abs=1e-5)


def test_a_hidden_identity_changes_no_output_and_is_a_parameter(tmp_path: Path) -> None:
    target = trained(TMSIdentityTarget(), tmp_path / "identity")
    plain = trained(TMSTarget(), tmp_path / "plain")
    assert set(target.space.names) == {"W", "A", "b"}
    inputs = torch.rand(7, 5)
    torch.testing.assert_close(target.network(inputs), plain.network(inputs))
    moved = target.outputs(target.weights | {"A": 2 * torch.eye(2)}, inputs)
    assert not torch.allclose(moved, target.network(inputs))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TMCSTarget(hidden=0), "hidden of at least 1"),
        (lambda: GroupsTarget(groups=0), "groups of at least 1"),
        (lambda: SquareTarget(probability=0.0), "probability in"),
        (lambda: SquareTarget(max_error=0.0), "positive max_error"),
        (lambda: ResidualMLPTarget(20, 20, 10, "orthogonal"), "as many dimensions as features"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_random_weights_keep_the_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResidualMLPTarget, "steps", 50)
    target = trained(ResidualMLPTarget(4, 3, 6, max_error=1.0), tmp_path)
    other = target.randomized(0)
    assert torch.equal(other.network.E, target.network.E)
    assert not torch.allclose(other.network.W_in, target.network.W_in)
