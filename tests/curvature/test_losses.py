"""Losses without the [samples, K, K] tensor, against that tensor; their gradients against autograd."""

import pytest
import torch

from eigen_lightning.curvature import losses
from tests.networks import unit_rows


def naive(curvature, directions):
    """The tensor ``d_k d_l cos(u_k, u_l)`` over samples and pairs k > l, all of it."""
    unit = directions / directions.norm(dim=-1, keepdim=True)
    product = torch.einsum("ks,ls,kl->skl", curvature, curvature, unit @ unit.T)
    return product.tril(-1)


def example():
    return torch.rand(4, 9, dtype=torch.float64), unit_rows(4, 6)


def scope(form: str, curvature):
    return form, curvature[0].numel(), 3 * curvature[0].numel()


def test_steepness_by_hand() -> None:
    curvature = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    assert losses.steepness(curvature) == (1 + 4 + 0 + 9) / 2


def test_interference_equals_the_naive_tensor() -> None:
    curvature, directions = example()
    tensor = naive(curvature, directions)
    statistic = losses.coactivation(curvature)
    squared = losses.interference(statistic, losses.cosines(directions), *scope("squared", curvature))
    torch.testing.assert_close(squared, tensor.square().sum() / 9)
    norm = losses.interference(statistic, losses.cosines(directions), *scope("norm", curvature))
    torch.testing.assert_close(norm, torch.linalg.vector_norm(tensor) / 27)


@pytest.mark.parametrize("form", ["squared", "norm"])
def test_derivative_by_curvature_is_that_of_autograd(form: str) -> None:
    curvature, directions = example()
    leaf = curvature.clone().requires_grad_()
    cosine = losses.cosines(directions)
    losses.interference(losses.coactivation(leaf), cosine, *scope(form, curvature)).backward()
    closed = losses.interference_by_curvature(
        curvature, losses.coactivation(curvature), cosine, *scope(form, curvature)
    )
    torch.testing.assert_close(closed, leaf.grad)
    part = losses.interference_by_curvature(
        curvature, losses.coactivation(curvature), cosine, *scope(form, curvature), rows=slice(1, 3)
    )
    torch.testing.assert_close(part, leaf.grad[1:3])


@pytest.mark.parametrize("form", ["squared", "norm"])
def test_orthogonal_directions_have_no_interference_and_a_finite_gradient(form: str) -> None:
    curvature, _ = example()
    directions = torch.eye(4, 6, dtype=torch.float64).requires_grad_()
    value = losses.interference(losses.coactivation(curvature), losses.cosines(directions), *scope(form, curvature))
    value.backward()
    assert value == 0
    assert torch.equal(directions.grad, torch.zeros(4, 6, dtype=torch.float64))
    closed = losses.interference_by_curvature(
        curvature, losses.coactivation(curvature), losses.cosines(directions.detach()), *scope(form, curvature)
    )
    assert torch.equal(closed, torch.zeros_like(curvature))


def test_interference_ignores_the_length_and_sign_of_rows() -> None:
    curvature, directions = example()
    statistic = losses.coactivation(curvature)
    other = directions * torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        losses.squared_interference(statistic, losses.cosines(directions)),
        losses.squared_interference(statistic, losses.cosines(other)),
    )
