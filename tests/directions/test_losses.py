"""Objectives against autograd, finite differences and the [samples, K, K] tensor they avoid."""

from typing import Any

import pytest
import torch
from torch import Tensor

from eigen_lightning.directions.losses import (
    Coverage,
    Interference,
    Steepness,
    coactivation,
    cosines,
    leaders,
    squared_interference,
)
from tests.networks import unit_rows

ALL = slice(None)


def naive(d: Tensor, U: Tensor) -> Tensor:
    """The tensor ``d_k d_l cos(u_k, u_l)`` over samples and pairs k > l, all of it."""
    unit = U / U.norm(dim=-1, keepdim=True)
    return torch.einsum("ks,ls,kl->skl", d, d, unit @ unit.T).tril(-1)


def example() -> tuple[Tensor, Tensor]:
    return torch.rand(4, 9, dtype=torch.float64), unit_rows(4, 6)


def numeric(value: Any, d: Tensor) -> Tensor:
    """The derivative by central differences."""
    step, slope = 1e-6, torch.zeros_like(d)
    for index in range(d.numel()):
        move = torch.zeros_like(d).flatten()
        move[index] = step
        move = move.view_as(d)
        slope.view(-1)[index] = (value(d + move) - value(d - move)) / (2 * step)
    return slope


def test_objectives_by_hand() -> None:
    d = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    assert Steepness().value(d) == (1 + 4 + 0 + 9) / 2
    assert Steepness(3.0).value(d) == (1 + 8 + 0 + 27) / 2
    assert Coverage(2.0).value(d) == (1 + 9) / 2
    assert Coverage().value(d) == (1 + 27) / 2


@pytest.mark.parametrize("shape", [(4, 9), (3, 2, 5)])
@pytest.mark.parametrize("kind", [Steepness, Coverage])
@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0, 3.0])
def test_cotangents_are_finite_differences(kind: Any, exponent: float, shape: tuple[int, ...]) -> None:
    objective, d = kind(exponent), torch.rand(shape, dtype=torch.float64) + 0.1
    torch.testing.assert_close(objective.cotangent(d, ALL), numeric(objective.value, d), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [Steepness, Coverage])
def test_rows_of_a_cotangent_are_those_of_the_whole(kind: Any) -> None:
    objective, d = kind(3.0), torch.rand(7, 2, 5, dtype=torch.float64)
    whole = objective.cotangent(d, ALL)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        of_rows = d[rows] if objective.rowwise else d
        assert torch.equal(objective.cotangent(of_rows, rows), whole[rows])


@pytest.mark.parametrize("kind", [Steepness, Coverage])
@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0])
def test_rounding_below_zero_is_no_curvature(kind: Any, exponent: float) -> None:
    d = torch.tensor([[-1e-9, 0.5], [-2e-9, -1e-9]])
    assert Steepness(exponent).value(d) == Coverage(exponent).value(d) == 0.5**exponent / 2
    slope = kind(exponent).cotangent(d, ALL)
    assert slope.isfinite().all()
    assert torch.equal(slope != 0, torch.tensor([[False, True], [False, False]]))


def test_each_sample_has_one_leader_and_ties_go_to_the_earlier_row() -> None:
    d = torch.tensor([[1.0, 2.0, 0.0, 5.0], [1.0 + 1e-6, 3.0, 0.0, 1.0], [1.0 + 2e-6, 3.0, 0.0, 5.0001]])
    assert leaders(d).tolist() == [0, 1, 0, 2]
    slope = Coverage(2.0).cotangent(d, ALL)
    assert (slope != 0).sum(0).tolist() == [1, 1, 0, 1]
    # Rounding of the order of a reduction over ranks changes no leader.
    for _ in range(20):
        assert torch.equal(leaders(d * (1 + 1e-6 * torch.rand_like(d))), leaders(d))


# ---------------------------------------------------------------------------------------------- interference


def loss(form: Any, d: Tensor) -> Interference:
    return Interference(form, d[0].numel(), 3 * d[0].numel())


def test_interference_equals_the_naive_tensor() -> None:
    d, U = example()
    tensor, statistic = naive(d, U), coactivation(d)
    torch.testing.assert_close(loss("squared", d).value(statistic, cosines(U)), tensor.square().sum() / 9)
    torch.testing.assert_close(loss("norm", d).value(statistic, cosines(U)), torch.linalg.vector_norm(tensor) / 27)


@pytest.mark.parametrize("form", ["squared", "norm"])
def test_the_derivative_by_d_is_finite_differences(form: Any) -> None:
    d, U = example()
    cosine = cosines(U)
    expected = numeric(lambda at: loss(form, d).value(coactivation(at), cosine), d)
    torch.testing.assert_close(loss(form, d).by_curvature(d, coactivation(d), cosine), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("form", ["squared", "norm"])
def test_orthogonal_directions_have_no_interference_and_a_finite_gradient(form: Any) -> None:
    d, _ = example()
    U = torch.eye(4, 6, dtype=torch.float64).requires_grad_()
    value = loss(form, d).value(coactivation(d), cosines(U))
    value.backward()
    assert value == 0
    assert torch.equal(U.grad, torch.zeros(4, 6, dtype=torch.float64))
    closed = loss(form, d).by_curvature(d, coactivation(d), cosines(U.detach()))
    assert torch.equal(closed, torch.zeros_like(d))


def test_interference_ignores_the_length_and_sign_of_rows() -> None:
    d, U = example()
    other = U * torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        squared_interference(coactivation(d), cosines(U)), squared_interference(coactivation(d), cosines(other))
    )


class Halves:
    """Two ranks' share of the samples of a quadratic form, as :class:`LinearizedBatch` would give it."""

    def __init__(self, factors: Tensor) -> None:
        self.factors = factors

    def scaled(self, U: Tensor) -> Tensor:
        return (U @ self.factors.T).square()

    def value_and_gradient(self, U: Tensor, objective: Any) -> tuple[Tensor, Tensor]:
        leaf = U.clone().requires_grad_()
        d = self.scaled(leaf)
        return d.detach(), torch.autograd.grad(d, leaf, objective.cotangent(d.detach(), ALL))[0]


@pytest.mark.parametrize("form", ["squared", "norm"])
@pytest.mark.parametrize("stale", [False, True])
def test_two_ranks_have_the_value_and_gradient_of_one(form: Any, stale: bool) -> None:
    factors, U = torch.randn(10, 6, dtype=torch.float64), unit_rows(4, 6)
    of_all, halves = Halves(factors), [Halves(factors[:4]), Halves(factors[4:])]
    interference = Interference(form, 10, 30)

    def evaluated(samples: Any, reduce: Any) -> tuple[Tensor, Tensor]:
        return interference.value_and_gradient(samples, U, samples.scaled(U) if stale else None, reduce)

    expected = evaluated(of_all, lambda tensor: tensor)
    # Each reduction is replayed with what the other rank puts in, in the same order.
    shares: list[list[Tensor]] = [[], []]
    sums: list[Tensor] = []
    for step in range(2 if not stale else 1):
        for rank, samples in enumerate(halves):
            shares[rank] = []

            def reduce(tensor: Tensor, rank: int = rank) -> Tensor:
                shares[rank].append(tensor)
                number = len(shares[rank]) - 1
                return sums[number] if number < len(sums) else tensor

            evaluated(samples, reduce)
        sums.append(shares[0][step] + shares[1][step])
    for samples in halves:
        queue = iter(sums)
        got = evaluated(samples, lambda tensor, queue=queue: next(queue))
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)
