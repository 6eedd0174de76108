import math

import pytest
import torch
from jsonargparse import ArgumentParser

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets.target import Target
from eigen_lightning.targets.toys import xor
from eigen_lightning.targets.toys.xor import XORNetwork, XORTarget


def gelu(z):
    return z * (1 + math.erf(z / math.sqrt(2))) / 2


def by_hand(weights, x):
    nodes = zip(weights["weight"].tolist(), weights["bias"].tolist(), strict=True)
    return sum(gelu(w[0] * x[0] + w[1] * x[1] + b) for w, b in nodes)


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return XORTarget().train(seed=0)


def test_network_is_the_sum_of_two_gelu_nodes():
    weights = {"weight": torch.randn(2, 2), "bias": torch.randn(2)}
    network = XORNetwork()
    network.load_state_dict(weights)
    inputs = torch.randn(5, 2)
    expected = torch.tensor([[by_hand(weights, x)] for x in inputs.tolist()])
    torch.testing.assert_close(network(inputs), expected)
    assert sum(parameter.numel() for parameter in network.parameters()) == 6


@pytest.mark.parametrize("seed", range(5))
def test_trained_to_the_truth_table(seed):
    weights, facts = XORTarget().train(seed)
    truth = {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 0}
    mse = sum((by_hand(weights, x) - y) ** 2 for x, y in truth.items()) / 4
    assert mse < 1e-10
    assert facts["mse"] < 1e-10
    assert facts["seed"] == seed
    assert facts["restarts"] == 8 * facts["rounds"]


def test_same_seed_same_network_whatever_goes_on_around_it(trained):
    torch.manual_seed(99)
    torch.set_num_threads(2)
    again, _ = XORTarget().train(seed=0)
    other, _ = XORTarget().train(seed=1)
    assert all(torch.equal(again[name], trained[0][name]) for name in again)
    assert not torch.equal(other["weight"], again["weight"])


def test_a_failure_names_the_best_error(monkeypatch):
    monkeypatch.setattr(xor.XORProblem, "steps", 1)
    monkeypatch.setattr(xor, "MAX_ROUNDS", 2)
    with pytest.raises(UserError, match=r"at most 0\.001, the best of 16 has 0\.\d+"):
        XORTarget().train(seed=0)


def test_prepared_once_and_loaded(tmp_path):
    run = RunFolder(tmp_path)
    target = XORTarget()
    target.prepare(run, seed=3)
    first = run.target.read_bytes()
    target.prepare(run, seed=4)
    assert run.target.read_bytes() == first
    target.load(run)
    assert target.space.names == ("weight", "bias")
    assert target.space.size == 6
    inputs = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    torch.testing.assert_close(
        target.outputs(target.weights, inputs), torch.tensor([[0.0], [1], [1], [0]]), atol=1e-4, rtol=0
    )
    assert not any(parameter.requires_grad for parameter in target.network.parameters())


def test_loading_before_preparing_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist; prepare the run first"):
        XORTarget().load(RunFolder(tmp_path))


def test_another_networks_weights_are_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.write_target({"W": torch.zeros(2, 5), "b": torch.zeros(5)}, {})
    with pytest.raises(UserError, match=r"weight \[2, 2\], bias \[2\], but .* holds one with W \[2, 5\], b \[5\]"):
        XORTarget().load(run)


def test_features_are_the_inputs_that_are_not_zero():
    target = XORTarget()
    assert target.feature_names == ["[0, 1]", "[1, 0]", "[1, 1]"]
    inputs = target.feature_inputs(values=10)
    assert [sample.tolist() for sample in inputs] == [[[0, 1]], [[1, 0]], [[1, 1]]]


@pytest.mark.parametrize("shape", [(4, 3), (4,), (4, 2, 2)])
def test_inputs_of_another_shape_are_refused(shape):
    with pytest.raises(UserError, match=r"\[batch, 2\] for XORTarget"):
        XORTarget().check_inputs(torch.zeros(shape))


def test_inputs_of_the_right_shape_pass():
    XORTarget().check_inputs(torch.zeros(7, 2))


@pytest.mark.parametrize("max_mse", [0, -1, math.nan])
def test_an_impossible_bound_is_refused(max_mse):
    with pytest.raises(UserError, match="positive max_mse"):
        XORTarget(max_mse=max_mse)


def test_a_configuration_names_it_without_its_module():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--target", type=Target)
    built = parser.instantiate(parser.parse_args(["--target=XORTarget", "--target.max_mse=1e-4"])).target
    assert isinstance(built, XORTarget)
    assert built.max_mse == 1e-4
