"""Tokens nobody expects: folded in float32, never in float64, and never where they would be missed."""

import pytest
import torch
from torch import Tensor

from eigen_lightning.curvature.categorical import FOLDED_SHARE, Folded, categorical_metric

VOCABULARY, LIKELY, WIDTH, SAMPLES = 600, 150, 6, 12


def example(spread: float) -> tuple[Tensor, Tensor]:
    """Logits and readout in float64: three tokens in four are unlikely, far off together, and differ by ``spread``.

    The last coordinate is zero but for these differences: the metric has nothing else to say of it.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    weight[:, -1] = 0
    weight[LIKELY:] = 20 * torch.ones(WIDTH) + spread * weight[LIKELY:]
    weight[LIKELY:, -1] = spread * torch.randn(VOCABULARY - LIKELY, generator=generator, dtype=torch.float64)
    logits = torch.randn(SAMPLES, VOCABULARY, generator=generator, dtype=torch.float64)
    logits[:, LIKELY:] = -18 + 0.5 * logits[:, LIKELY:]
    return logits, weight


def naive(logits: Tensor, weight: Tensor) -> Tensor:
    probability = logits.softmax(-1)
    mean = probability @ weight
    return torch.einsum("sv,vi,vj->sij", probability, weight, weight) - torch.einsum("si,sj->sij", mean, mean)


def folded(logits: Tensor, weight: Tensor) -> Folded | None:
    probability, top = logits.softmax(-1), logits.argmax(-1)
    return Folded.find(probability.scatter(-1, top[:, None], 0), weight, weight[top])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_unlikely_tokens_alike_are_folded_and_the_metric_is_that_of_all() -> None:
    logits, weight = (tensor.float() for tensor in example(0.3))
    found = folded(logits, weight)
    assert found is not None
    assert set(found.others.tolist()) == set(range(LIKELY))
    exact = naive(logits.double(), weight.double())
    metric = categorical_metric(logits, weight)
    trace = exact.diagonal(dim1=1, dim2=2).sum(-1)
    assert ((metric - exact).abs().amax((1, 2)) <= 2e-7 * trace).all()


def test_what_only_folded_tokens_say_is_kept() -> None:
    logits, weight = (tensor.float() for tensor in example(0.3))
    tail = logits.softmax(-1).scatter(-1, logits.argmax(-1, keepdim=True), 0)
    found = folded(logits, weight)
    assert found is not None
    centered = weight.double() - weight[LIKELY:].double().mean(0)
    expected = torch.einsum("sv,v->s", tail[:, LIKELY:].double(), centered[LIKELY:, -1].square())
    off = torch.einsum("sv,v->s", tail[:, LIKELY:].double(), centered[LIKELY:, -1])
    common = weight[LIKELY:, -1].double().mean()
    mass = tail[:, LIKELY:].double().sum(1)
    second = found.second[:, -1, -1].double() - mass * common**2 - 2 * off * common
    # Averaged over twelve samples whose 450 tokens differ in likelihood.
    torch.testing.assert_close(second, expected, rtol=0.2, atol=0)
    first = torch.einsum("sv,vi->si", tail[:, LIKELY:].double(), weight[LIKELY:].double())
    torch.testing.assert_close(found.first.double(), first, rtol=1e-5, atol=1e-12)


def test_nothing_is_folded_in_float64() -> None:
    logits, weight = example(0.3)
    assert folded(logits, weight) is None
    torch.testing.assert_close(categorical_metric(logits, weight), naive(logits, weight), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("change", ["spread", "likelihood", "number"])
def test_tokens_that_would_be_missed_are_not_folded(change: str) -> None:
    logits, weight = (tensor.float() for tensor in example(20.0 if change == "spread" else 0.3))
    if change == "likelihood":
        logits[0, LIKELY:] += 12
    if change == "number":
        logits[:, LIKELY : -VOCABULARY // 5] += 12
    assert folded(logits, weight) is None
    exact = naive(logits.double(), weight.double())
    trace = exact.diagonal(dim1=1, dim2=2).sum(-1)
    assert ((categorical_metric(logits, weight) - exact).abs().amax((1, 2)) <= 2e-6 * trace).all()


def test_the_limit_is_on_the_share_of_the_worst_sample() -> None:
    """Between two spreads 30 % apart the worst sample passes the limit, computed here by hand."""
    logits, _ = example(0.3)

    def worst(spread: float) -> float:
        weight, probability = example(spread)[1], logits.softmax(-1)
        apart = weight[LIKELY:] - weight[LIKELY:].mean(0)
        folded = probability[:, LIKELY:]
        share = folded @ apart.square().sum(1)
        averaged = folded.mean(0) @ apart.square().sum(1) / folded.sum(1).mean()
        likely = probability[:, :LIKELY]
        mean = likely @ weight[:LIKELY] / likely.sum(1, keepdim=True)
        least = (likely * (weight[None, :LIKELY] - mean[:, None]).square().sum(-1)).sum(-1)
        return float(((share + folded.sum(1) * averaged) / least).max())

    below = next(spread for spread in (20 * 0.77**n for n in range(40)) if worst(spread) <= FOLDED_SHARE)
    assert folded(logits.float(), example(below)[1].float()) is not None
    assert folded(logits.float(), example(below / 0.77)[1].float()) is None


def test_no_sample_pays_for_what_another_says_of_unlikely_tokens() -> None:
    """Two samples: on one the unlikely tokens lie close together, on the other a few of them lie far apart.

    Their average would be an eighth of the trace of the first, which is nearly certain of its token.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    weight[LIKELY:] = 0.01 * weight[LIKELY:]
    weight[LIKELY : LIKELY + 5] *= 1e4
    logits = torch.full((2, VOCABULARY), -60.0, dtype=torch.float64)
    logits[:, 0] = 0
    # The first is certain but for unlikely tokens that are alike; the second for those that are not.
    logits[0, LIKELY + 5 :] = -14
    logits[1, LIKELY : LIKELY + 5] = -14
    exact = naive(logits, weight)
    metric = categorical_metric(logits.float(), weight.float())
    trace = exact.diagonal(dim1=1, dim2=2).sum(-1)
    off = torch.linalg.matrix_norm(metric.double() - exact, "nuc") / trace
    assert off.max() <= FOLDED_SHARE + 2e-6


@pytest.mark.parametrize("seed", range(20))
def test_folding_stays_within_its_bound_on_random_batches(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    weight = torch.randn(400, 5, generator=generator, dtype=torch.float64)
    weight[50:] = uniform(0, 3) + 10 ** uniform(-4, 0.5) * weight[50:]
    logits = torch.randn(3, 400, generator=generator, dtype=torch.float64) * uniform(0.1, 4)
    logits[:, 50:] -= torch.tensor([uniform(5, 40) for _ in range(3)])[:, None]
    logits[:, 0] += uniform(0, 10)
    logits, weight = logits.float(), weight.float()
    exact = naive(logits.double(), weight.double())
    metric = categorical_metric(logits, weight).double()
    trace = exact.diagonal(dim1=1, dim2=2).sum(-1)
    assert (torch.linalg.matrix_norm(metric - exact, "nuc") <= (FOLDED_SHARE + 5e-6) * trace).all()
