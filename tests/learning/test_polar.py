"""Polar ascent against closed forms."""

import copy
import itertools

import pytest
import torch
from torch import Tensor

from eigen_lightning.learning.polar import PolarAscent, by_gram, by_newton_schulz, by_svd, polar_rows
from eigen_lightning.run.errors import UserError
from tests.networks import unit_rows


def directions(rows: int, width: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(unit_rows(rows, width))


def test_polar_is_the_nearest_matrix_with_orthonormal_rows() -> None:
    matrix = torch.randn(4, 9, dtype=torch.float64)
    found = polar_rows(matrix)
    torch.testing.assert_close(found @ found.T, torch.eye(4, dtype=torch.float64))
    # matrix = S found with S symmetric and positive is what makes it the nearest.
    stretch = matrix @ found.T
    torch.testing.assert_close(stretch, stretch.T)
    assert torch.linalg.eigvalsh(stretch).min() > 0


def test_the_gram_matrix_gives_the_same_as_svd() -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-7)):
        matrix = 1e-6 * torch.randn(3, 10, 40, dtype=dtype)
        kept = matrix.clone()
        torch.testing.assert_close(by_gram(matrix), by_svd(matrix), rtol=0, atol=tolerance)
        assert torch.equal(matrix, kept)


def test_newton_schulz_gives_the_same_as_svd() -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        matrix = 1e6 * torch.randn(3, 10, 40, dtype=dtype)
        torch.testing.assert_close(by_newton_schulz(matrix), by_svd(matrix), rtol=0, atol=tolerance)


def test_newton_schulz_leaves_dependent_rows_to_svd() -> None:
    matrix = torch.randn(4, 9, dtype=torch.float64)
    matrix[2] = 0
    found = by_newton_schulz(matrix)
    torch.testing.assert_close(found @ found.T, torch.eye(4, dtype=torch.float64))


def test_more_rows_than_parameters_are_orthonormal_in_equal_groups() -> None:
    found = polar_rows(torch.randn(8, 6, dtype=torch.float64))
    for group in (found[:4], found[4:]):
        torch.testing.assert_close(group @ group.T, torch.eye(4, dtype=torch.float64))


def quartic(U: Tensor, samples: Tensor) -> Tensor:
    """Steepness where each sample's Hessian is x x^T."""
    return (U @ samples.T).pow(4).mean(1).sum()


def test_every_step_raises_the_steepness_on_fixed_samples() -> None:
    samples = torch.randn(200, 6, dtype=torch.float64).pow(3)
    U = directions(4, 6)
    optimizer = PolarAscent([U], momentum=0)
    values = []
    for _ in range(15):
        loss = -quartic(U, samples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(-float(loss.detach()))
    assert all(after >= before * (1 - 1e-12) for before, after in itertools.pairwise(values[1:]))
    assert values[-1] > 1.2 * values[1]


def test_momentum_averages_gradients() -> None:
    U = directions(3, 5)
    optimizer = PolarAscent([U], momentum=0.75)
    gradients = [torch.randn(3, 5, dtype=torch.float64) for _ in range(3)]
    for gradient in gradients:
        U.grad = gradient
        optimizer.step()
    average = -(0.75 * (0.75 * gradients[0] + 0.25 * gradients[1]) + 0.25 * gradients[2])
    torch.testing.assert_close(U.detach(), polar_rows(average))


def test_a_restored_optimizer_takes_the_same_step() -> None:
    gradients = [torch.randn(3, 5, dtype=torch.float64) for _ in range(3)]
    U = directions(3, 5)
    optimizer = PolarAscent([U], release_after=2)
    for gradient in gradients[:2]:
        U.grad = gradient
        optimizer.step()
    V = torch.nn.Parameter(U.detach().clone())
    restored = PolarAscent([V], release_after=2)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for param, each in ((U, optimizer), (V, restored)):
        param.grad = gradients[2]
        each.step()
    assert torch.equal(U, V)


def test_released_rows_are_unit_but_no_longer_orthonormal() -> None:
    U = directions(3, 5)
    optimizer = PolarAscent([U], release_after=2)
    for step in range(4):
        assert optimizer.released(U) == (step >= 2)
        assert optimizer.excludes_interference(U) == (step < 2)
        U.grad = torch.randn(3, 5, dtype=torch.float64)
        optimizer.step()
        gram = U.detach() @ U.detach().T
        torch.testing.assert_close(gram.diagonal(), torch.ones(3, dtype=torch.float64))
        assert (float((gram - torch.eye(3)).abs().max()) < 1e-9) == (step < 2)


def test_more_rows_than_parameters_can_interfere() -> None:
    U = directions(8, 5)
    assert not PolarAscent([U]).excludes_interference(U)


def test_restarted_rows_forget_the_past() -> None:
    U = directions(3, 6)
    optimizer = PolarAscent([U], momentum=0.5)
    U.grad = torch.randn(3, 6, dtype=torch.float64)
    optimizer.step()
    before = optimizer.state[U]["average"].clone()
    optimizer.restart_rows(U, [1])
    average = optimizer.state[U]["average"]
    assert torch.equal(average[[0, 2]], before[[0, 2]])
    torch.testing.assert_close(average[1], U.detach()[1] * before.norm(dim=1).median())


@pytest.mark.parametrize("settings", [{"momentum": 1.0}, {"momentum": -0.1}, {"release_after": 0}])
def test_numbers_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        PolarAscent([directions(2, 3)], **settings)
