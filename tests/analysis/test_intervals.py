"""Bootstrap intervals against the analytic ones, and how often they hold the truth."""

import json

import pytest
import torch
from scipy import stats

from eigen_lightning.analysis import intervals as module
from eigen_lightning.analysis.intervals import bootstrap, bootstrap_interval, sums_by_group


@pytest.mark.parametrize(("n_groups", "level"), [(400, 0.9), (400, 0.5), (20, 0.9)])
def test_a_mean_of_normal_groups_has_students_interval(n_groups: int, level: float) -> None:
    values = torch.randn(n_groups, dtype=torch.float64) * 3 + 7
    found = bootstrap_interval(values, torch.ones(n_groups), level, draws=20_000)
    assert found.value == pytest.approx(float(values.mean()))
    error = float(values.std()) / n_groups**0.5
    expected = stats.t.interval(level, n_groups - 1, float(values.mean()), error)
    assert [float(found.low), float(found.high)] == pytest.approx(expected, abs=0.06 * error)


@pytest.mark.parametrize("n_groups", [12, 60])
def test_coverage_is_near_the_level_where_samples_of_a_group_are_alike(n_groups: int) -> None:
    """Groups of unequal size with a level of their own: 500 worlds at once, as columns."""
    worlds = 500
    sizes = torch.randint(2, 9, (n_groups,)).double()
    own = torch.randn(worlds, n_groups, dtype=torch.float64)
    within = torch.randn(worlds, n_groups, dtype=torch.float64) * sizes.sqrt()
    found = bootstrap_interval((own + 5) * sizes + within, sizes)
    held = (found.low <= 5) & (found.high >= 5)
    # The standard error of a share of 0.9 in 500 is 0.013.
    assert float(held.double().mean()) == pytest.approx(0.9, abs=0.035)
    # Samples drawn one by one would make it too narrow by far.
    errors = (found.high - found.low) / 2 / 1.645
    assert float(errors.mean()) > 1.5 / float(sizes.sum()) ** 0.5


def test_columns_have_the_intervals_that_each_has_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sums, counts = torch.rand(2, 3, 30), torch.rand(2, 3, 30)
    found = bootstrap_interval(sums, counts, draws=200, seed=4)
    # The draws are the same however many are made at a time.
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 100)
    alone = bootstrap_interval(sums[1, 2], counts[1, 2], draws=200, seed=4)
    for name in ("value", "low", "high"):
        assert getattr(found, name)[1, 2] == pytest.approx(float(getattr(alone, name)))
    other = bootstrap_interval(sums, counts, draws=200, seed=5)
    assert not torch.equal(other.low, found.low)
    assert torch.equal(bootstrap_interval(sums, counts, draws=200, seed=4).low, found.low)


def test_a_figure_of_several_sums_is_resampled_as_one() -> None:
    """Two columns that are each other's opposite: each is uncertain, their mean is not."""
    column = torch.randn(40, dtype=torch.float64)
    both = torch.stack([1 + column, 1 - column])
    found = bootstrap(lambda weights: (both @ weights.T).mean(0) / weights.sum(1), 40)
    assert [float(end) for end in (found.low, found.value, found.high)] == pytest.approx([1, 1, 1])


def test_one_group_has_no_interval() -> None:
    found = bootstrap_interval(torch.tensor([[3.0], [0.0]]), torch.tensor([2.0]))
    assert found.to_json() == {"value": [1.5, 0], "low": [None, None], "high": [None, None], "level": 0.9}
    json.dumps(found.to_json(), allow_nan=False)
    assert not found.overlaps(found).any()


def test_intervals_overlap_where_they_have_a_point_in_common() -> None:
    ends = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 3.0]]).unbind(1)
    others = torch.tensor([[0.5, 0.6], [1.1, 1.2], [1.0, 2.0]]).unbind(1)
    first, second = (module.Interval(low, low, high, 0.9) for low, high in (ends, others))
    assert first.overlaps(second).tolist() == second.overlaps(first).tolist() == [True, False, True]


def test_sums_by_group_are_those_of_a_loop() -> None:
    values, group = torch.rand(3, 50), torch.randint(4, (50,)) * 7 - 3
    sums, counts = sums_by_group(values, group)
    for number, name in enumerate(sorted(set(group.tolist()))):
        torch.testing.assert_close(sums[:, number], values[:, group == name].double().sum(1))
        assert counts[number] == int((group == name).sum())
