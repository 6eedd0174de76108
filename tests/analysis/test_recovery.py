"""Figures of recovery against hand-made truths."""

import pytest
import torch

from eigen_lightning.analysis.recovery import assign, recovery
from tests.networks import unit_rows

N = 6


def truth_and_features(features: int = N, size: int = 15) -> tuple[torch.Tensor, torch.Tensor]:
    """True directions, and d2D of each over single-feature samples where features do not overlap."""
    return torch.linalg.qr(torch.randn(size, features, dtype=torch.float64))[0].T, torch.eye(features)


def test_oracle_scores_one() -> None:
    truth, by_feature = truth_and_features()
    found = recovery(truth, truth, by_feature)
    assert found.scalars() == pytest.approx({"mcc": 1, "matched": N, "selectivity": 1, "uniqueness": 1, "mmcs": 1})
    assert found.partner.tolist() == list(range(N))


def test_nothing_changes_under_permutation_and_sign() -> None:
    truth, _ = truth_and_features()
    directions, by_feature = unit_rows(8, 15), torch.rand(8, N)
    order, sign = torch.randperm(8), torch.randint(2, (8, 1)) * 2.0 - 1
    before = recovery(directions, truth, by_feature)
    after = recovery((sign * directions)[order], truth, by_feature[order])
    assert after.scalars() == pytest.approx(before.scalars(), abs=1e-12)
    assert torch.equal(order[after.partner], before.partner)


def test_mcc_is_the_best_one_to_one_assignment() -> None:
    # Greedy matching would give feature 0 the direction it likes best and leave 0.1 for feature 1.
    truth = torch.eye(2, dtype=torch.float64)
    directions = torch.tensor([[0.9, 0.8], [0.8, 0.1]], dtype=torch.float64)
    partner, cosine = assign(directions, truth)
    best = torch.nn.functional.normalize(directions, dim=-1)
    assert partner.tolist() == [1, 0]
    assert cosine.tolist() == pytest.approx([best[1, 0].item(), best[0, 1].item()])


def test_duplicates_lower_mcc_and_uniqueness_but_not_mmcs_of_what_they_cover() -> None:
    truth, by_feature = truth_and_features(2)
    twice = truth[[0, 0]]
    found = recovery(twice, truth, by_feature[[0, 0]])
    assert found.matched == 1
    assert found.mcc == pytest.approx(0.5)
    assert found.uniqueness == 0.5
    assert found.selectivity == pytest.approx(0.5)


def test_fewer_directions_than_features_leave_features_without_partner() -> None:
    truth, by_feature = truth_and_features(4)
    found = recovery(truth[:3], truth, by_feature[:3])
    assert found.mcc == pytest.approx(0.75)
    assert found.partner.tolist() == [0, 1, 2, -1]
    assert found.selectivity == pytest.approx(0.75)
    assert found.uniqueness == 1


def test_matched_means_above_nine_tenths() -> None:
    truth = torch.eye(2, dtype=torch.float64)
    for cosine, matched in ((0.91, 2), (0.89, 1)):
        tilted = torch.tensor([[1, 0], [(1 - cosine**2) ** 0.5, cosine]], dtype=torch.float64)
        assert recovery(tilted, truth, torch.eye(2)).matched == matched


def test_selectivity_is_the_partners_share() -> None:
    truth = torch.eye(2, dtype=torch.float64)
    by_feature = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    assert recovery(truth, truth, by_feature).selectivity == pytest.approx((0.75 + 1) / 2)
