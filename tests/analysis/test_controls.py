"""Controls against dense eigendecompositions and, for random directions, their known statistics."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from eigen_lightning.analysis.controls import (
    WIDEST,
    mean_hessian_product,
    principal_directions,
    random_directions,
)
from eigen_lightning.analysis.recovery import absolute_cosines, recovery
from eigen_lightning.analysis.truth import true_directions
from eigen_lightning.curvature import MSE, Chunk, LinearizedBatch, Linearizer
from tests.networks import TMS, SmallNetwork, unit_rows

SAMPLES, AT_ONCE = 40, 4


@pytest.fixture
def network() -> SmallNetwork:
    return SmallNetwork(TMS(5, 2))


@pytest.fixture
def inputs() -> Tensor:
    return torch.rand(SAMPLES, 5, dtype=torch.float64)


def dense_mean_hessian(network: SmallNetwork, inputs: Tensor) -> Tensor:
    flat = network.space.flatten(network.weights)

    def outputs(weights: Tensor) -> Tensor:
        return network.outputs(network.space.unflatten(weights), inputs)

    reference = outputs(flat)
    return torch.func.hessian(lambda weights: MSE().value(outputs(weights), reference).mean())(flat)


def batches(network: SmallNetwork, inputs: Tensor, size: int) -> Iterable[LinearizedBatch]:
    linearizer = Linearizer.prepare(network, MSE(), inputs[:size], chunk=Chunk(AT_ONCE))
    return [linearizer(part) for part in inputs.split(size)]


def test_hessian_vector_products_are_the_dense_ones(network: SmallNetwork, inputs: Tensor) -> None:
    directions = unit_rows(6, 15)
    product = mean_hessian_product(batches(network, inputs, 10), directions)
    torch.testing.assert_close(product, directions @ dense_mean_hessian(network, inputs), rtol=1e-9, atol=1e-12)


def test_principal_directions_are_the_dense_top_eigenvectors(network: SmallNetwork, inputs: Tensor) -> None:
    values, vectors = torch.linalg.eigh(dense_mean_hessian(network, inputs))
    found, eigenvalues = principal_directions(
        lambda: batches(network, inputs, 10), 3, unit_rows(6, 15), tolerance=1e-14, max_sweeps=500
    )
    torch.testing.assert_close(eigenvalues, values.flip(0)[:3], rtol=1e-7, atol=0)
    torch.testing.assert_close(absolute_cosines(found, vectors.flip(1).T[:3]).diagonal(), torch.ones(3).double())


def test_a_start_that_spans_everything_needs_one_sweep(network: SmallNetwork, inputs: Tensor) -> None:
    sweeps = []

    def counted() -> Iterable[LinearizedBatch]:
        sweeps.append(1)
        return batches(network, inputs, 10)

    _, eigenvalues = principal_directions(counted, 15, torch.eye(15, dtype=torch.float64))
    expected = torch.linalg.eigvalsh(dense_mean_hessian(network, inputs)).flip(0)
    torch.testing.assert_close(eigenvalues, expected, rtol=1e-9, atol=1e-12)
    assert len(sweeps) == 1


def test_ranks_together_see_the_whole(network: SmallNetwork, inputs: Tensor) -> None:
    """The mean over ranks is taken of every product: with another rank's given, both find the whole's."""
    start, other = torch.eye(15, dtype=torch.float64), dense_mean_hessian(network, inputs[20:])
    _, eigenvalues = principal_directions(
        lambda: batches(network, inputs[:20], 20), 15, start, reduce=lambda mine: (mine + start @ other) / 2
    )
    expected = torch.linalg.eigvalsh(dense_mean_hessian(network, inputs)).flip(0)
    torch.testing.assert_close(eigenvalues, expected, rtol=1e-9, atol=1e-12)


def test_oracle_is_each_features_top_eigenvector(network: SmallNetwork) -> None:
    features = [torch.eye(5, dtype=torch.float64)[f] * torch.linspace(0.1, 1, 10).double()[:, None] for f in range(5)]
    found = true_directions(Linearizer.prepare(network, MSE(), features[0]), features).rows
    for direction, inputs in zip(found, features, strict=True):
        top = torch.linalg.eigh(dense_mean_hessian(network, inputs))[1][:, -1]
        assert float((direction @ top).abs()) == pytest.approx(1, abs=1e-6)


def test_random_directions_are_reproducible_unit_and_different() -> None:
    first = random_directions(7, 30, seed=3, draw=0)
    assert torch.equal(first, random_directions(7, 30, seed=3, draw=0))
    torch.testing.assert_close(first.norm(dim=1), torch.ones(7, dtype=torch.float64))
    for other in (random_directions(7, 30, seed=3, draw=1), random_directions(7, 30, seed=4, draw=0)):
        assert absolute_cosines(first, other).max() < 0.9


def test_random_directions_stay_in_their_band() -> None:
    """5 random rows against 5 orthonormal truths in 15 dimensions: mcc 0.38 on average. 20 rows already reach 0.55
    by chance alone, which is why no figure stands without its control."""
    truth = torch.eye(15, dtype=torch.float64)[:5]
    for rows, low, high in ((5, 0.33, 0.43), (20, 0.50, 0.60)):
        draws = [recovery(random_directions(rows, 15, 0, draw), truth, torch.ones(rows, 5)) for draw in range(200)]
        assert low < sum(draw.mcc for draw in draws) / 200 < high
        assert sum(draw.matched for draw in draws) / 200 < 0.2


@pytest.mark.parametrize("block", [3, 8])
def test_principal_directions_of_a_slowly_falling_spectrum(block: int) -> None:
    """Eigenvalues 1/1, 1/2, ... of a 90 x 90 Hessian, through several restarts: subspace iteration from 8 rows needs
    more than 500 products for seven digits of the sixth."""
    torch.manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(90, 90, dtype=torch.float64))[0]
    values = 1 / torch.arange(1, 91, dtype=torch.float64)
    factor = vectors * (90 * values).sqrt()
    products = []

    def push(directions: Tensor) -> Tensor:
        products.append(len(directions))
        return (directions @ factor).unsqueeze(-1)

    def quadratic(tangents: Tensor) -> Tensor:
        return tangents.square().sum(-1)

    def batches() -> Iterable[LinearizedBatch]:
        none = torch.zeros(0, 90, dtype=torch.float64)
        return [LinearizedBatch(torch.zeros(90, 1), push, quadratic, none, Chunk(AT_ONCE))]

    found, eigenvalues = principal_directions(batches, 6, unit_rows(block, 90), tolerance=1e-9)
    torch.testing.assert_close(eigenvalues, values[:6], rtol=1e-7, atol=0)
    torch.testing.assert_close(absolute_cosines(found, vectors.T[:6]).diagonal(), torch.ones(6).double())
    assert WIDEST * 6 < sum(products) < 120


@pytest.mark.parametrize("block", [2, 6, 9])
def test_a_hessian_of_low_rank_gives_no_eigenvalue_above_its_trace(block: int) -> None:
    """Its Krylov space is exhausted after a sweep or two; float32, as runs have it."""
    batch = torch.randn(10, 100)

    class LowRank:
        def value_and_gradient(self, U: Tensor, objective: object) -> tuple[Tensor, Tensor]:
            return U, 2 * U @ batch.T @ batch

    start = torch.randn(block, 100)
    found, values = principal_directions(lambda: [LowRank()], 2, start, tolerance=1e-7)  # type: ignore[list-item]
    expected = torch.linalg.eigh((batch.T @ batch).double())
    torch.testing.assert_close(values.double(), expected.eigenvalues.flip(0)[:2], rtol=1e-5, atol=0)
    assert float(values.sum()) <= float(batch.square().sum()) * (1 + 1e-5)
    torch.testing.assert_close(
        (found.double() @ expected.eigenvectors.flip(1)[:, :2]).diagonal().abs(),
        torch.ones(2).double(),
        rtol=1e-5,
        atol=0,
    )
