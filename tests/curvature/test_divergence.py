"""Divergences: value and quadratic form against each other, against finite differences and closed forms."""

import pytest
import torch
from torch import Tensor
from torch.func import hessian

from eigen_lightning.curvature import KL, MSE, CrossEntropy, Divergence, divergence_named
from eigen_lightning.curvature.categorical import categorical_metric
from eigen_lightning.curvature.divergence import check_divergence
from eigen_lightning.run.errors import UserError

ALL = [MSE(), KL(), CrossEntropy()]


def named(divergence: Divergence) -> str:
    return type(divergence).__name__


@pytest.mark.parametrize("divergence", ALL, ids=named)
def test_value_and_gradient_vanish_at_the_reference(divergence: Divergence) -> None:
    reference = torch.randn(6, 9, dtype=torch.float64)
    assert divergence.value(reference, reference).abs().max() < 1e-15
    slope = torch.func.grad(lambda at: divergence.value(at, reference).sum())(reference)
    assert slope.abs().max() < 1e-15


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


@pytest.mark.parametrize("divergence", ALL, ids=named)
def test_diagonal_is_that_of_the_hessian_where_nothing_else_is_there(divergence: Divergence) -> None:
    reference = torch.randn(2, 4, dtype=torch.float64)
    diagonal = divergence.diagonal(reference)
    for sample in range(2):
        H = hessian(lambda at, r=reference[sample]: divergence.value(at, r))(reference[sample])
        off = H - H.diagonal().diag()
        assert (diagonal is not None) == (float(off.abs().max()) < 1e-12)
        if diagonal is not None:
            torch.testing.assert_close(diagonal[sample], H.diagonal())


# ---------------------------------------------------------------------- float32 at the ends of its range


def confident(gap: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits whose likeliest token is ahead of all others by ``gap`` nats, and a readout."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 30, generator=generator, dtype=torch.float64)
    logits[:, 7] = logits.amax(1) + gap
    return logits.to(dtype), torch.randn(30, 5, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("gap", [0.0, 20.0, 80.0, 95.0, 200.0, 1e4])
def test_a_certain_token_gives_the_metric_of_float64_or_zero(gap: float) -> None:
    """Beyond 104 nats float32 has no number for what is left of the others."""
    logits, weight = confident(gap, torch.float32)
    metric = categorical_metric(logits, weight)
    exact = categorical_metric(logits.double(), weight.double())
    trace = exact.diagonal(dim1=1, dim2=2).sum(-1)
    assert metric.isfinite().all()
    error = (metric - exact).abs().amax((1, 2))
    assert (error <= 1e-5 * trace + 1e-37).all()
    form = KL().quadratic_form(torch.eye(30)[:3, None].expand(3, 6, 30), logits)
    assert form.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_vocabulary_of_one_has_no_curvature(dtype: torch.dtype) -> None:
    logits, weight = torch.randn(4, 1, dtype=dtype), torch.randn(1, 3, dtype=dtype)
    assert torch.equal(categorical_metric(logits, weight), torch.zeros(4, 3, 3, dtype=dtype))
    assert torch.equal(KL().quadratic_form(torch.randn(2, 4, 1, dtype=dtype), logits), torch.zeros(2, 4, dtype=dtype))
    check_divergence(KL(), logits)


# --------------------------------------------------------------------------------------- what is checked


@pytest.mark.parametrize("divergence", [*ALL], ids=named)
@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1.0, 10.0, 1e4])
def test_the_divergences_pass_their_check_at_any_scale_of_outputs(divergence: Divergence, scale: float) -> None:
    check_divergence(divergence, scale * torch.randn(5, 3, 9))
    check_divergence(divergence, torch.zeros(5, 3, 9))
    check_divergence(divergence, scale * torch.ones(5, 3, 9))


@pytest.mark.parametrize("gap", [20.0, 36.0, 80.0, 200.0, 1e4])
@pytest.mark.parametrize("divergence", [KL(), CrossEntropy()], ids=named)
def test_the_check_takes_networks_that_are_certain(divergence: Divergence, gap: float) -> None:
    check_divergence(divergence, confident(gap, torch.float32)[0])


class Fourfold(MSE):
    def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
        return 4 * super().value(outputs, reference)


class Warm(KL):
    """Softmax at a temperature of 4: 1/16 of the curvature."""

    def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
        return super().value(outputs / 4, reference / 4)


class OtherDiagonal(MSE):
    def diagonal(self, reference: Tensor) -> Tensor:
        return super().diagonal(reference) * 1.1


class OtherPullBack(MSE):
    def pull_back(self, outputs: Tensor, weight: Tensor) -> Tensor:
        return super().pull_back(outputs, weight) * 1.1


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize(
    ("divergence", "what"),
    [
        (Fourfold(), "quadratic_form"),
        (Warm(), "quadratic_form"),
        (OtherDiagonal(), "diagonal"),
        (OtherPullBack(), "pull_back"),
    ],
    ids=["MSE times 4", "KL at a temperature", "diagonal", "pull_back"],
)
def test_a_quadratic_form_that_is_not_the_values_is_refused(divergence: Divergence, what: str, scale: float) -> None:
    with pytest.raises(UserError, match=rf"expected {named(divergence)}\.{what} to agree with the second difference"):
        check_divergence(divergence, scale * torch.randn(8, 5))


def test_the_same_value_without_the_parents_quadratic_form_is_right() -> None:
    class Warm(Divergence):
        def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
            return KL().value(outputs / 4, reference / 4)

    reference, tangents = torch.randn(6, 9, dtype=torch.float64), torch.randn(4, 6, 9, dtype=torch.float64)
    check_divergence(Warm(), reference)
    expected = KL().quadratic_form(tangents / 4, reference / 4)
    torch.testing.assert_close(Warm().quadratic_form(tangents, reference), expected)


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
