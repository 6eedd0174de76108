"""The polar factor against what defines it, and polar ascent against closed forms."""

import copy
import itertools

import pytest
import torch
from torch import Tensor

from eigen_lightning.directions import Coverage, PolarAscent, Steepness, polar
from eigen_lightning.directions.polar import unit
from eigen_lightning.run.errors import UserError
from tests.networks import unit_rows


def check_polar(matrix: Tensor, factor: Tensor, tolerance: float) -> None:
    """Orthonormal rows U with ``U M^T`` symmetric and positive semidefinite: U is the nearest such matrix to M."""
    M, U = matrix.double(), factor.double()
    torch.testing.assert_close(U @ U.T, torch.eye(len(U), dtype=torch.float64), rtol=0, atol=tolerance)
    stretch = U @ M.T
    # Row by row in the rows' own lengths: what a small row is turned to is not drowned by a large one.
    lengths = M.norm(dim=1).clamp_min(1e-300)
    apart = (stretch - stretch.T).abs() / torch.maximum(lengths[:, None], lengths[None, :])
    assert apart.max() <= tolerance
    assert torch.linalg.eigvalsh((stretch + stretch.T) / 2).min() >= -tolerance * float(lengths.max())


def svd_factor(matrix: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left @ right


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("smallest", [1.0, 0.01, 1e-4, 1e-7])
def test_the_polar_factor_of_rows_of_any_norm(smallest: float, dtype: torch.dtype) -> None:
    """16 independent features of 128 parameters whose outputs' scales go from 1 down: gradients go with their cube."""
    rows = (
        unit_rows(16, 128) * torch.logspace(0, float(torch.tensor(smallest).log10()), 16, dtype=torch.float64)[:, None]
    )
    matrix = rows.to(dtype)
    factor = polar(matrix)
    assert factor.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 2e-6
    check_polar(matrix, factor, tolerance)
    torch.testing.assert_close(factor.double(), svd_factor(matrix), rtol=0, atol=tolerance)


@pytest.mark.parametrize("condition", [1e3, 1e7, 1e10])
def test_the_polar_factor_of_an_ill_conditioned_matrix(condition: float) -> None:
    left, _, right = torch.linalg.svd(torch.randn(8, 40, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0, -float(torch.tensor(condition).log10()), 8, dtype=torch.float64)
    torch.testing.assert_close(polar(left * values @ right), left @ right, rtol=0, atol=1e-15 * condition + 1e-12)


@pytest.mark.parametrize("lost", [[2], [0, 4], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_rows_become_orthogonal_to_the_others(lost: list[int], dtype: torch.dtype) -> None:
    matrix = torch.randn(5, 7, dtype=dtype)
    matrix[lost] = 0
    factor, others = polar(matrix), [row for row in range(5) if row not in lost]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(factor @ factor.T, torch.eye(5, dtype=dtype), rtol=0, atol=tolerance)
    if others:
        torch.testing.assert_close(factor[others], polar(matrix[others]), rtol=0, atol=tolerance)
    # Chosen by no rounding: the same whatever noise of float64's rounding there is.
    torch.testing.assert_close(polar(matrix * (1 + 1e-15)), factor, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rank", [1, 3])
def test_rows_that_depend_on_each_other_are_completed(rank: int) -> None:
    matrix = torch.randn(6, rank, dtype=torch.float64) @ torch.randn(rank, 20, dtype=torch.float64)
    factor = polar(matrix)
    check_polar(matrix, factor, 1e-12)
    # In the span of the rows the factor is fixed; its nearest is as near as singular values allow.
    distance = (matrix - factor).square().sum()
    values = torch.linalg.svdvals(matrix)
    torch.testing.assert_close(distance, (values - 1).square().sum())


def test_the_input_stays_and_other_units_do_not_matter() -> None:
    matrix = torch.randn(3, 10, dtype=torch.float64)
    before = matrix.clone()
    for factor in (1e-200, 1e-6, 1e6, 1e200):
        torch.testing.assert_close(polar(factor * matrix), polar(matrix), rtol=0, atol=1e-12)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize(("rows", "width", "sizes"), [(8, 6, [4, 4]), (7, 3, [3, 3, 1]), (6, 6, [6]), (5, 1, [1] * 5)])
def test_more_rows_than_parameters_are_orthonormal_in_groups(rows: int, width: int, sizes: list[int]) -> None:
    matrix = torch.randn(rows, width, dtype=torch.float64)
    for group, of_matrix in zip(polar(matrix).split(sizes), matrix.split(sizes), strict=True):
        check_polar(of_matrix, group, 1e-12)


def test_unit_rows_of_any_length() -> None:
    rows = torch.randn(4, 6)
    rows[1] = 0
    rows[2] *= 1e-38
    fallback = unit_rows(4, 6, torch.float32)
    got = unit(rows, otherwise=fallback)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(4))
    assert torch.equal(got[1], fallback[1])
    torch.testing.assert_close(got[0], rows[0] / rows[0].norm())


# --------------------------------------------------------------------------------------------------- ascent


def directions(rows: int, width: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(unit_rows(rows, width))


def stepped(U: torch.nn.Parameter, optimizer: PolarAscent, objective: Steepness | Coverage, samples: Tensor) -> float:
    """One step of ascent where each sample's Hessian is ``x x^T``; the value before it."""
    d = (U @ samples.T).square()
    value = objective.value(d)
    U.grad = -torch.autograd.grad(value, U)[0]
    optimizer.step()
    return float(value.detach())


@pytest.mark.parametrize("orthonormal", [True, False])
@pytest.mark.parametrize(
    "objective", [Steepness(2.0), Steepness(3.0), Steepness(1.5), Coverage(3.0), Coverage(2.0)], ids=str
)
def test_every_step_raises_the_objective_on_fixed_samples(objective: Steepness | Coverage, orthonormal: bool) -> None:
    samples = torch.randn(200, 6, dtype=torch.float64).pow(3)
    U = directions(4, 6)
    if orthonormal:
        U.data = polar(U.data)
    optimizer = PolarAscent([U], momentum=0, orthonormal=orthonormal)
    values = [stepped(U, optimizer, objective, samples) for _ in range(15)]
    assert all(after >= before * (1 - 1e-12) for before, after in itertools.pairwise(values))
    assert values[-1] > 1.1 * values[0]


@pytest.mark.parametrize("orthonormal", [True, False])
def test_a_shifted_step_is_still_an_ascent(orthonormal: bool) -> None:
    samples, U = torch.randn(200, 6, dtype=torch.float64).pow(3), directions(4, 6)
    U.data = polar(U.data)
    optimizer = PolarAscent([U], momentum=0, orthonormal=orthonormal, shift=True)
    values = [stepped(U, optimizer, Steepness(), samples) for _ in range(20)]
    assert all(after >= before * (1 - 1e-12) for before, after in itertools.pairwise(values))


def test_free_rows_stay_where_the_gradient_is_zero_and_follow_it_elsewhere() -> None:
    U = directions(3, 5)
    optimizer = PolarAscent([U], momentum=0, orthonormal=False)
    before, gradient = U.detach().clone(), torch.randn(3, 5, dtype=torch.float64)
    gradient[1] = 0
    U.grad = -gradient
    optimizer.step()
    assert torch.equal(U.detach()[1], before[1])
    torch.testing.assert_close(U.detach()[[0, 2]], torch.nn.functional.normalize(gradient[[0, 2]], dim=-1))


def test_momentum_averages_gradients() -> None:
    U = directions(3, 5)
    optimizer = PolarAscent([U], momentum=0.75)
    gradients = [torch.randn(3, 5, dtype=torch.float64) for _ in range(3)]
    for gradient in gradients:
        U.grad = gradient
        optimizer.step()
    average = -(0.75 * (0.75 * gradients[0] + 0.25 * gradients[1]) + 0.25 * gradients[2])
    torch.testing.assert_close(U.detach(), polar(average))


@pytest.mark.parametrize("orthonormal", [True, False])
def test_a_restored_optimizer_takes_the_same_step(orthonormal: bool) -> None:
    gradients = [torch.randn(3, 5, dtype=torch.float64) for _ in range(3)]
    U = directions(3, 5)
    optimizer = PolarAscent([U], orthonormal=orthonormal)
    for gradient in gradients[:2]:
        U.grad = gradient
        optimizer.step()
    V = torch.nn.Parameter(U.detach().clone())
    # What a run decided for its rows is restored too.
    restored = PolarAscent([V], orthonormal=not orthonormal)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for param, each in ((U, optimizer), (V, restored)):
        param.grad = gradients[2]
        each.step()
    assert torch.equal(U, V)


def test_only_orthonormal_rows_without_groups_cannot_interfere() -> None:
    few, many = directions(3, 5), directions(8, 5)
    assert PolarAscent([few]).keeps_orthonormal(few)
    assert not PolarAscent([many]).keeps_orthonormal(many)
    assert not PolarAscent([few], orthonormal=False).keeps_orthonormal(few)


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


@pytest.mark.parametrize("momentum", [1.0, -0.1])
def test_numbers_out_of_range_are_refused(momentum: float) -> None:
    with pytest.raises(UserError, match="momentum"):
        PolarAscent([directions(2, 3)], momentum=momentum)
