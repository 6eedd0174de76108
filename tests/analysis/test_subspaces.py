"""Recovery of features that are subspaces, on subspaces written down."""

import math

import pytest
import torch

from eigen_lightning.analysis.recovery import recovery
from eigen_lightning.analysis.subspaces import recovery_of, subspace_recovery
from eigen_lightning.analysis.truth import Truth
from tests.networks import unit_rows

FEATURES, RANK, SIZE = 3, 2, 12


def truth() -> torch.Tensor:
    return torch.linalg.qr(torch.randn(SIZE, FEATURES * RANK, dtype=torch.float64))[0].T.view(FEATURES, RANK, SIZE)


def responses(directions: torch.Tensor, subspaces: torch.Tensor) -> torch.Tensor:
    """d2D of each direction where one feature alone is present: its squared projection on the feature's subspace."""
    return torch.stack([(directions @ subspace.T).square().sum(1) for subspace in subspaces], 1)


def test_any_basis_of_the_subspaces_is_all_of_the_truth() -> None:
    subspaces = truth()
    turn = torch.linalg.qr(torch.randn(RANK, RANK, dtype=torch.float64))[0]
    directions = (turn @ subspaces).flatten(0, 1)[torch.randperm(FEATURES * RANK)]
    found = subspace_recovery(directions, subspaces, responses(directions, subspaces))
    assert found.scalars() == pytest.approx({"mcc": 1, "matched": 3, "selectivity": 1, "uniqueness": 1, "mmcs": 1})


def test_one_direction_a_feature_is_enough_where_there_are_no_more() -> None:
    subspaces = truth()
    directions = subspaces[:, 1]
    found = subspace_recovery(directions, subspaces, responses(directions, subspaces))
    assert found.matched == FEATURES
    assert found.mcc == pytest.approx(1)


def test_the_cosine_is_that_of_the_principal_angles() -> None:
    """Each direction is turned out of its subspace by an angle of its own, towards dimensions that no feature uses."""
    basis = torch.eye(SIZE, dtype=torch.float64)
    subspaces = basis[: FEATURES * RANK].view(FEATURES, RANK, SIZE)
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64)[:, None]
    directions = angles.cos() * basis[:6] + angles.sin() * basis[6:]
    found = subspace_recovery(directions, subspaces, responses(directions, subspaces))
    for feature in range(FEATURES):
        squares = angles[2 * feature : 2 * feature + 2].cos().square()
        assert float(found.cosine[feature]) == pytest.approx(math.sqrt(float(squares.mean())))


def test_a_missing_direction_and_a_feature_without_any_are_not_excused() -> None:
    subspaces = truth()
    directions = torch.cat([subspaces[0], subspaces[1, :1].expand(4, -1)])
    found = subspace_recovery(directions, subspaces, responses(directions, subspaces))
    assert found.cosine.tolist() == pytest.approx([1, math.sqrt(0.5), 0], abs=1e-9)
    assert found.partner[2] == -1
    assert found.uniqueness == pytest.approx(2 / 3)


def test_a_feature_with_fewer_directions_than_could_be_there_has_that_share() -> None:
    subspaces = truth()
    directions = torch.cat([subspaces[0], subspaces[1, :1], subspaces[2], subspaces[0, :1]])
    found = subspace_recovery(directions, subspaces, responses(directions, subspaces))
    assert found.cosine[1:].tolist() == pytest.approx([math.sqrt(0.5), 1])


def test_permutation_and_sign_change_nothing_and_rank_one_is_the_assignment() -> None:
    subspaces = truth()
    directions, by_feature = unit_rows(7, SIZE), torch.rand(7, FEATURES)
    order, sign = torch.randperm(7), torch.randint(2, (7, 1)) * 2.0 - 1
    before = subspace_recovery(directions, subspaces, by_feature)
    after = subspace_recovery((sign * directions)[order], subspaces, by_feature[order])
    assert after.scalars() == pytest.approx(before.scalars(), abs=1e-12)
    single = Truth(subspaces[:, :1], torch.ones(FEATURES))
    assert recovery_of(directions, single, by_feature).mcc == recovery(directions, single.rows, by_feature).mcc


def test_dead_directions_belong_to_no_feature() -> None:
    subspaces = truth()
    found = subspace_recovery(unit_rows(4, SIZE), subspaces, torch.zeros(4, FEATURES))
    assert found.mcc == 0
    assert found.selectivity == 0
