"""Divergences: value and quadratic form against each other, against finite differences and closed forms."""

import pytest
import torch
from torch import Tensor

from eigen_lightning.curvature import KL, MSE, CrossEntropy, Divergence, divergence_named
from eigen_lightning.curvature.categorical import categorical_metric
from eigen_lightning.run.errors import UserError

ALL = [MSE(), KL(), CrossEntropy()]


def named(divergence: Divergence) -> str:
    return type(divergence).__name__


@pytest.mark.parametrize("divergence", ALL, ids=named)
def test_value_and_gradient_vanish_at_the_reference(divergence: Divergence) -> None:
    reference = torch.randn(6, 9, dtype=torch.float64)
    assert divergence.value(reference, reference).abs().max() < 1e-15
    assert divergence.gradient_at_reference(reference).abs().max() < 1e-15


@pytest.mark.parametrize("divergence", ALL, ids=named)
def test_closed_quadratic_form_is_the_second_derivative_of_the_value(divergence: Divergence) -> None:
    reference, tangents = torch.randn(6, 9, dtype=torch.float64), torch.randn(4, 6, 9, dtype=torch.float64)
    closed = divergence.quadratic_form(tangents, reference)
    by_products = Divergence.quadratic_form(divergence, tangents, reference)
    torch.testing.assert_close(closed, by_products, rtol=1e-12, atol=0)
    step = 1e-4
    differences = 2 * divergence.value(reference + step * tangents, reference) / step**2
    torch.testing.assert_close(closed, differences, rtol=2e-3, atol=0)


@pytest.mark.parametrize("divergence", ALL, ids=named)
def test_pulled_back_metric_gives_the_quadratic_form(divergence: Divergence) -> None:
    weight, hidden = torch.randn(30, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    tangents = torch.randn(4, 2, 3, 5, dtype=torch.float64)
    logits = hidden @ weight.T
    metric = divergence.pull_back(logits, weight)
    assert metric is not None
    pulled = torch.einsum("kbsi,bsij,kbsj->kbs", tangents, metric, tangents)
    torch.testing.assert_close(pulled, divergence.quadratic_form(tangents @ weight.T, logits), rtol=1e-12, atol=0)


def test_kl_value_is_that_of_torch_distributions() -> None:
    outputs, reference = torch.randn(2, 5, 7, dtype=torch.float64)
    p, p0 = (torch.distributions.Categorical(logits=logits) for logits in (outputs, reference))
    torch.testing.assert_close(KL().value(outputs, reference), torch.distributions.kl_divergence(p, p0))
    torch.testing.assert_close(CrossEntropy().value(outputs, reference), torch.distributions.kl_divergence(p0, p))


def test_float32_metric_keeps_its_digits_where_one_token_is_nearly_certain() -> None:
    """Naive subtraction of the mean's outer product leaves nothing of a metric this small."""
    weight, hidden = torch.randn(400, 8) + 3.0, torch.randn(50, 8)
    logits = hidden @ weight.T
    logits[:, 7] += 60
    exact = categorical_metric(logits.double(), weight.double())
    error = (categorical_metric(logits, weight) - exact).abs().amax((1, 2)) / exact.abs().amax((1, 2))
    assert exact.abs().amax() < 0.1
    assert error.max() < 2e-5


def test_metric_does_not_depend_on_the_vocabulary_chunk() -> None:
    weight, logits = torch.randn(30, 5, dtype=torch.float64), torch.randn(4, 30, dtype=torch.float64)
    torch.testing.assert_close(categorical_metric(logits, weight, 7), categorical_metric(logits, weight, 1000))


def test_an_unknown_name_suggests_a_near_one() -> None:
    with pytest.raises(UserError, match="cross_entropy"):
        divergence_named("crossentropy")


def test_a_divergence_of_ones_own_needs_only_a_value() -> None:
    class Quartic(Divergence):
        def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
            gap = outputs - reference
            return (gap.square() + gap**4).sum(-1)

    tangents = torch.randn(3, 2, 4, dtype=torch.float64)
    form = Quartic().quadratic_form(tangents, torch.randn(2, 4, dtype=torch.float64))
    torch.testing.assert_close(form, 2 * tangents.square().sum(-1))
