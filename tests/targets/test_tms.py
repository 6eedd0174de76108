import itertools
import math

import pytest
import torch
from jsonargparse import ArgumentParser
from scipy.stats import chisquare, kstest

from eigen_lightning.data.tms import nonempty_features
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets.target import Target
from eigen_lightning.targets.toys import tms
from eigen_lightning.targets.toys.tms import TMSNetwork, TMSProblem, TMSTarget, represented


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return TMSTarget().train(seed=0)


def own_outputs(weights):
    """What each feature, alone and fully on, comes back as; by loops, in float64."""
    W, b = weights["W"].double(), weights["b"].double()
    return [max(0.0, sum(w * w for w in W[:, f].tolist()) + b[f].item()) for f in range(W.shape[1])]


def test_network_ties_its_weights():
    W, b = torch.randn(2, 4), torch.randn(4)
    network = TMSNetwork(4, 2)
    network.load_state_dict({"W": W, "b": b})
    x = torch.rand(3, 4)
    expected = torch.zeros(3, 4)
    for sample, out in itertools.product(range(3), range(4)):
        before = b[out].item()
        for hidden, feature in itertools.product(range(2), range(4)):
            before += (W[hidden, out] * W[hidden, feature] * x[sample, feature]).item()
        expected[sample, out] = max(0.0, before)
    torch.testing.assert_close(network(x), expected)


def test_represented_is_the_own_output_above_three_tenths():
    network = TMSNetwork(6, 3)
    network.load_state_dict({"W": 0.5 * torch.randn(3, 6), "b": 0.3 * torch.randn(6)})
    own = network(torch.eye(6)).diagonal()
    assert torch.equal(represented(network.W, network.b), own > 0.3)
    assert 0 < (own > 0.3).sum() < 6, "a test of both sides"


def test_nonempty_features_are_distributed_as_sparse_samples_that_are_not_empty():
    features, probability, rows = 3, 0.3, 40000
    samples = nonempty_features(rows, features, probability, torch.Generator().manual_seed(0))
    present = samples > 0
    masks = list(itertools.product([False, True], repeat=features))[1:]
    counts = [(present == torch.tensor(mask)).all(dim=1).sum().item() for mask in masks]
    assert sum(counts) == rows, "none is empty"
    weights = [math.prod(probability if on else 1 - probability for on in mask) for mask in masks]
    expected = [rows * weight / sum(weights) for weight in weights]
    assert chisquare(counts, expected).pvalue > 1e-3
    assert kstest(samples[present].numpy(), "uniform").pvalue > 1e-3


def test_nonempty_samples_of_features_always_present():
    assert (nonempty_features(200, 4, 1.0, torch.Generator().manual_seed(1)) > 0).all()


def test_loss_is_that_over_plain_sparse_samples():
    features, hidden, probability, rows = 6, 2, 0.1, 400_000
    problem = TMSProblem(features, hidden, probability, features)
    network = TMSNetwork(features, hidden)
    network.load_state_dict({"W": 0.7 * torch.randn(hidden, features), "b": 0.2 * torch.randn(features)})
    inputs = torch.rand(rows, features) * (torch.rand(rows, features) < probability)
    errors = (network(inputs) - inputs).square().mean(dim=1)
    ensemble = {"W": network.W[None], "b": network.b[None]}
    tms_batch = torch.Generator().manual_seed(3)
    estimate = torch.stack([problem.losses(ensemble, tms_batch) for _ in range(500)]).mean()
    error = errors.std() / math.sqrt(rows)
    assert abs(estimate - errors.mean()) < 5 * error
    assert abs(problem.final_losses(ensemble) - errors.mean()) < 12 * error


@pytest.mark.parametrize("seed", range(3))
def test_all_features_are_represented(seed):
    weights, facts = TMSTarget().train(seed)
    assert min(own_outputs(weights)) > 0.9
    assert facts["represented"] == [0, 1, 2, 3, 4]
    assert facts["seed"] == seed
    assert facts["loss"] < 0.0019, "two features left out cost 0.0067"


@pytest.mark.slow
@pytest.mark.parametrize(("features", "hidden"), [(20, 6), (40, 10)])
def test_all_features_of_larger_models_are_represented(features, hidden):
    for seed in range(3):
        weights, facts = TMSTarget(features, hidden).train(seed)
        assert min(own_outputs(weights)) > 0.7
        assert len(facts["represented"]) == features


def test_same_seed_same_network_whatever_goes_on_around_it(trained):
    torch.manual_seed(99)
    torch.set_num_threads(2)
    again, facts = TMSTarget().train(seed=0)
    assert all(torch.equal(again[name], trained[0][name]) for name in again)
    assert facts == trained[1]


def test_a_failure_says_how_many_were_represented(monkeypatch):
    monkeypatch.setattr(tms, "MAX_ROUNDS", 1)
    monkeypatch.setattr(TMSProblem, "steps", 400)
    with pytest.raises(
        UserError, match=r"represents 8 of 8 features, the best of 8 represents ([1-7]);.*represented: \1"
    ):
        TMSTarget(8, 1, probability=0.5).train(seed=0)


def test_fewer_features_can_be_asked_for(monkeypatch):
    monkeypatch.setattr(TMSProblem, "steps", 400)
    weights, facts = TMSTarget(8, 1, probability=0.5, min_represented=1).train(seed=0)
    own = own_outputs(weights)
    assert facts["represented"] == [f for f in range(8) if own[f] > 0.3]
    assert 1 <= len(facts["represented"]) < 8


def test_prepared_once_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(TMSProblem, "steps", 400)
    run = RunFolder(tmp_path)
    target = TMSTarget(parameters=("W",))
    target.prepare(run, seed=3)
    first = run.target.read_bytes()
    target.prepare(run, seed=4)
    assert run.target.read_bytes() == first
    target.load(run)
    stored, facts = run.read_target()
    assert facts["probability"] == 0.05
    assert target.space.names == ("W",)
    assert target.space.size == 10
    inputs = torch.rand(3, 5)
    torch.testing.assert_close(
        target.outputs(target.weights, inputs), torch.relu(inputs @ stored["W"].T @ stored["W"] + stored["b"])
    )


def test_another_networks_weights_are_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.write_target({"W": torch.zeros(2, 5), "b": torch.zeros(5)}, {"probability": 0.05})
    TMSTarget().load(run)
    with pytest.raises(UserError, match=r"W \[3, 7\], b \[7\], but .* holds one with W \[2, 5\], b \[5\]"):
        TMSTarget(7, 3).load(run)


def test_a_network_trained_at_another_probability_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.write_target({"W": torch.zeros(2, 5), "b": torch.zeros(5)}, {"probability": 0.05})
    with pytest.raises(UserError, match=r"probability 0\.2, but .* holds one with probability 0\.05"):
        TMSTarget(probability=0.2).load(run)


def test_single_feature_inputs():
    inputs = TMSTarget(3, 2).single_feature_inputs(4)
    assert inputs.shape == (3, 4, 3)
    for feature, value in itertools.product(range(3), range(4)):
        expected = [0.0, 0.0, 0.0]
        expected[feature] = (value + 1) / 4
        assert inputs[feature, value].tolist() == expected
    assert [torch.equal(a, b) for a, b in zip(TMSTarget(3, 2).feature_inputs(4), inputs, strict=True)] == [True] * 3
    assert TMSTarget(3, 2).feature_names == ["feature 0", "feature 1", "feature 2"]


def test_size_is_part_of_the_fingerprint(tmp_path):
    run = RunFolder(tmp_path)
    run.write_target({"W": torch.zeros(2, 5), "b": torch.zeros(5)}, {"probability": 0.05})
    target = TMSTarget()
    target.load(run)
    assert target.config() == {"class": "TMSTarget", "parameters": ["W", "b"], "features": 5, "hidden": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": 0}, "features of at least 1, got 0"),
        ({"hidden": -1}, "hidden of at least 1, got -1"),
        ({"probability": 0.0}, r"probability in \(0, 1\], got 0"),
        ({"probability": 1.1}, r"probability in \(0, 1\], got 1.1"),
        ({"probability": math.nan}, r"probability in \(0, 1\], got nan"),
        ({"min_represented": 6}, r"between 0 and features \(5\), got 6"),
        ({"min_represented": -1}, r"between 0 and features \(5\), got -1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TMSTarget(**settings)


def test_inputs_of_another_width_are_refused():
    TMSTarget(7).check_inputs(torch.zeros(2, 7))
    with pytest.raises(UserError, match=r"\[batch, 7\] for TMSTarget, got \[2, 5\]"):
        TMSTarget(7).check_inputs(torch.zeros(2, 5))


def test_a_configuration_names_it_without_its_module():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--target", type=Target)
    built = parser.instantiate(
        parser.parse_args(["--target=TMSTarget", "--target.features=9", "--target.hidden=4"])
    ).target
    assert isinstance(built, TMSTarget)
    assert built.build().W.shape == (4, 9)
