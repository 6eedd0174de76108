"""The pulled-back metric: cached, truncated with its bound, and chosen by what is less work."""

import pytest
import torch

from eigen_lightning.curvature import KL, MSE, GaussNewton, MetricCache, Readout
from eigen_lightning.curvature.categorical import categorical_metric, truncated_categorical_metric
from eigen_lightning.curvature.readout import DroppedMass, metric_pays, pulled_back_metric
from eigen_lightning.run.errors import UserError
from tests.networks import transformer_network, unit_rows


def example(scale: float = 1.0):
    weight, hidden = torch.randn(40, 6, dtype=torch.float64), scale * torch.randn(3, 5, 6, dtype=torch.float64)
    return Readout(weight, torch.randn(40, dtype=torch.float64)), hidden


def test_samples_at_once_do_not_change_the_metric() -> None:
    readout, hidden = example()
    whole = categorical_metric(readout(hidden), readout.weight)
    # The common center moves with the samples it is taken over; the metric does not.
    torch.testing.assert_close(pulled_back_metric(KL(), readout, hidden, samples_at_once=4), whole)


def test_top_k_of_the_whole_vocabulary_is_exact_and_drops_nothing() -> None:
    readout, hidden = example()
    metric, mass = truncated_categorical_metric(readout(hidden), readout.weight, 40)
    torch.testing.assert_close(metric, categorical_metric(readout(hidden), readout.weight))
    assert mass.abs().max() < 1e-14


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_truncation_stays_within_its_bound(top_k: int) -> None:
    readout, hidden = example()
    logits = readout(hidden)
    exact = categorical_metric(logits, readout.weight)
    metric, mass = truncated_categorical_metric(logits, readout.weight, top_k)
    probability = logits.softmax(-1)
    torch.testing.assert_close(mass, 1 - probability.topk(top_k).values.sum(-1))
    tangents = torch.randn(20, 6, dtype=torch.float64)
    moved = tangents @ readout.weight.T
    spread = (moved.amax(-1) - moved.amin(-1)).square()
    error = torch.einsum("ki,bsij,kj->kbs", tangents, metric - exact, tangents).abs()
    assert (error <= 1.25 * mass * spread[:, None, None]).all()
    assert error.max() > 0


def test_dropped_mass_is_averaged_over_samples() -> None:
    dropped = DroppedMass()
    assert dropped.facts() is None
    dropped.add(torch.tensor([0.1, 0.3]))
    dropped.add(torch.tensor([0.2]))
    assert dropped.facts() == pytest.approx({"mean": 0.2, "maximum": 0.3})


def test_top_k_needs_a_distribution() -> None:
    with pytest.raises(UserError, match="metric_top_k"):
        pulled_back_metric(MSE(), *example(), top_k=3)


def test_metric_pays_where_its_operations_are_fewer() -> None:
    """Counted out: d (d + 1) + 2 d a token once, against 4 d each evaluation, all times the vocabulary."""
    readout = Readout(torch.zeros(1000, 64))
    for evaluations in range(1, 40):
        assert metric_pays(readout, evaluations) == (4 * 64 * evaluations > 64 * 65 + 2 * 64)


def test_kept_metrics_give_the_same_curvature_and_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs, identities = transformer_network(), torch.randint(50, (4, 6)), torch.tensor([7, 3, 9, 1])
    directions = unit_rows(3, network.space.size)
    expected = GaussNewton(network, KL()).at(inputs, 3)(directions)
    curvature = GaussNewton(network, KL(), cache=MetricCache())
    first = curvature.at(inputs, 3, identities, keep=True)(directions)
    torch.testing.assert_close(first, expected)
    monkeypatch.setattr(KL, "pull_back", None)
    order = torch.tensor([2, 0, 3])
    again = curvature.at(inputs[order], 3, identities[order])(directions)
    torch.testing.assert_close(again, expected[:, order])
    assert torch.equal(curvature.at(inputs, 3, identities)(directions), first)


def test_only_what_is_to_be_kept_is_kept() -> None:
    network, inputs = transformer_network(), torch.randint(50, (4, 6))
    cache = MetricCache()
    GaussNewton(network, KL(), cache=cache).at(inputs, 3, torch.arange(4))
    assert len(cache) == 0


def test_beyond_the_memory_budget_metrics_lie_in_a_file(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    small, large = MetricCache(memory_budget=100), MetricCache()
    factor = torch.randn(200, 2, 5, 3)
    metric = factor.mT @ factor
    identities = torch.randperm(1000)[:200]
    for cache in (small, large):
        for part in torch.arange(200).split(30):
            cache.put(identities[part], metric[part])
        assert torch.equal(cache.get(identities[[5, 150]], torch.device("cpu")), metric[[5, 150]])
        assert not cache.holds(torch.tensor([2000]))
    assert caplog.text.count("kept in a file") == 1
