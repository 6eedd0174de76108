"""States reached, on curvature written down."""

import torch

from eigen_lightning.analysis.normalized import Normalized
from eigen_lightning.analysis.planted import reached, shares

STATES = torch.tensor([[0, 1, 2, -1], [2, 1, 0, 2]])


def test_shares_are_of_all_curvature_that_of_unknown_states_too() -> None:
    values = torch.zeros(3, 2, 4)
    values[0][STATES == 2] = 1.0
    values[1][STATES == 1] = 3.0
    values[1, 0, 3] = 6.0
    found = shares(values, STATES, 3)
    assert found.tolist() == [[0, 0, 1], [0, 0.5, 0], [0, 0, 0]]


def test_a_state_counts_once_and_only_from_four_fifths_on() -> None:
    state, share = torch.tensor([0, 0, 1, 2]), torch.tensor([0.9, 0.81, 0.79, 0.8])
    context = torch.tensor([False, True, True])
    assert reached(state, share, context) == {"states": 2.0, "context_states": 1.0}
    assert reached(state, torch.zeros(4), context) == {"states": 0.0, "context_states": 0.0}


def test_twins_respond_alike_wherever_they_point() -> None:
    values = torch.rand(4, 30)
    values[1] = 3 * values[0]
    values[2] = torch.eye(30)[0]
    values[3] = torch.eye(30)[1]
    found = Normalized(values, values, torch.ones(30), torch.arange(30))
    assert found.twins(slice(0, 4)) == 2
    assert found.twins(slice(1, 4)) == 0


def test_coverage_is_the_share_of_the_bound_that_the_leaders_reach() -> None:
    values = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.8, 0.0]])
    trace = torch.tensor([2.0, 1.0, 4.0])
    found = Normalized(values, values * trace, trace, torch.arange(3))
    assert abs(found.coverage(slice(0, 2), 2.0, 1.0) - (1 + 0.64) / 3) < 1e-6
    expected = (1 * 2 + 0.8**2 * 1) / (2 + 1 + 4)
    assert abs(found.coverage(slice(0, 2), 2.0, 0.5) - expected) < 1e-6
