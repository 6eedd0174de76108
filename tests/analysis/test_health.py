"""Each planted failure is found and named."""

import math

import torch

from eigen_lightning.analysis.health import Health, LeadMetric, collapsed, duplicates, first_non_finite, health
from tests.networks import unit_rows


def orthonormal(rows: int, width: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(width, rows, dtype=torch.float64))[0].T


def tilted(row: torch.Tensor, other: torch.Tensor, cosine: float) -> torch.Tensor:
    return cosine * row + math.sqrt(1 - cosine**2) * other


def test_orthonormal_directions_that_all_lead_are_well() -> None:
    found = health(orthonormal(4, 9), torch.ones(4))
    assert found
    assert str(found) == "all well"
    assert found.counts() == {"dead": 0, "duplicates": 0, "collapsed": 0, "non_finite": 0}


def test_dead_directions_lead_on_no_sample() -> None:
    metric = LeadMetric(3)
    metric.update(torch.tensor([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]))
    metric.update(torch.tensor([[1.0], [1.5], [1.2]]))
    leads = metric.compute()
    # The second sample, on which nothing happens, counts for none.
    assert leads.count.tolist() == [1, 1, 0]
    torch.testing.assert_close(leads.steepness, torch.tensor([10 / 3, 3.25 / 3, 5.44 / 3]).double())
    found = health(orthonormal(3, 9), leads.count)
    assert found.dead == [2]
    assert "dead (lead on no sample): 2" in str(found)


def test_a_single_direction_that_is_dead_is_found() -> None:
    metric = LeadMetric(1)
    metric.update(torch.zeros(1, 4))
    assert health(orthonormal(1, 4), metric.compute().count).dead == [0]


def test_duplicates_are_named_whatever_their_sign() -> None:
    basis = orthonormal(4, 9)
    U = torch.stack([basis[0], basis[1], -tilted(basis[0], basis[2], 0.96), tilted(basis[1], basis[3], 0.94)])
    assert duplicates(U) == [(0, 2)]
    assert "duplicates: 2 of 0" in str(health(U, torch.ones(4)))


def test_collapsed_rows_lie_in_the_span_of_the_others() -> None:
    basis = orthonormal(3, 9)
    inside = torch.nn.functional.normalize(basis[0] + basis[1], dim=0)
    assert collapsed(torch.stack([basis[0], basis[1], inside])) != []
    assert len(collapsed(torch.stack([basis[0], basis[1], inside]))) == 1
    assert collapsed(torch.stack([basis[0], torch.zeros(9), basis[1]])) == [1]
    assert collapsed(basis) == []


def test_more_directions_than_parameters_are_not_collapsed_for_that() -> None:
    assert collapsed(unit_rows(12, 5)) == []
    flat = unit_rows(12, 5)
    flat[:, 4] = 0
    assert len(collapsed(flat)) == 1


def test_rows_that_are_not_finite_are_named() -> None:
    U = orthonormal(3, 9)
    U[1, 4] = torch.nan
    found = health(U, torch.ones(3))
    assert found.non_finite == [1]
    assert "not finite: 1" in str(found)


def test_a_number_that_is_not_finite_is_located() -> None:
    curvature = torch.zeros(3, 2, 4)
    assert first_non_finite(curvature, torch.tensor([70, 71]), 0) is None
    curvature[2, 1, 3] = torch.inf
    found = first_non_finite(curvature, torch.tensor([70, 71]), 5)
    assert found is not None
    assert (found.direction, found.sample_id, found.position, found.rank) == (2, 71, 3, 5)
    assert str(found) == "d2D of direction 2 is not finite on sample 71, position 3, rank 5"


def test_a_sample_without_positions_has_position_zero() -> None:
    found = first_non_finite(torch.tensor([[1.0, torch.nan]]), torch.tensor([8, 9]), 0)
    assert found is not None
    assert (found.sample_id, found.position) == (9, 0)


def test_of_two_duplicates_the_less_steep_is_mended() -> None:
    found = Health(dead=[3], duplicates=[(0, 1), (1, 2), (3, 4)])
    # 0 of (0, 1); then 2 of (1, 2); 4 needs no mending once 3 is.
    assert found.to_mend(torch.tensor([1.0, 5.0, 2.0, 0.0, 1.0])) == [0, 2, 3]
