"""The start: climbing, the pool and the greedy choice, against brute force on small problems."""

import itertools
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from eigen_lightning.curvature import MSE, LinearizedBatch, Linearizer, Scale
from eigen_lightning.directions import Start, polar
from eigen_lightning.directions.losses import Steepness
from eigen_lightning.directions.start import _descending, _greedy, choose, climb, principal_rows, total_gradient
from eigen_lightning.run.errors import UserError
from eigen_lightning.targets.toys.tms import TMSTarget
from tests.networks import TMS, SmallNetwork, dense_hessian, unit_rows


class Samples:
    """Samples of a network in a few batches."""

    def __init__(self, network: SmallNetwork | TMSTarget, batches: list[Tensor], scale: Scale | None = None) -> None:
        self.linearizer = Linearizer.prepare(network, MSE(), batches[0])
        self.batches, self.scale = batches, scale

    def passes(self) -> Iterable[tuple[Tensor, LinearizedBatch]]:
        return [(inputs, self.linearize(inputs)) for inputs in self.batches]

    def linearize(self, inputs: Tensor) -> LinearizedBatch:
        return self.linearizer(inputs).scaled_by(self.scale)


@pytest.fixture
def samples() -> Samples:
    return Samples(SmallNetwork(TMS()), [torch.rand(6, 5, dtype=torch.float64) for _ in range(3)])


def mean_hessian(samples: Samples) -> Tensor:
    return torch.cat([dense_hessian(samples.linearizer.network, MSE(), part) for part in samples.batches]).mean(0)


def test_every_step_of_the_climb_raises_the_steepness_of_all_samples(samples: Samples) -> None:
    rows = polar(unit_rows(4, 15))

    def value(rows: Tensor) -> float:
        return float(sum(Steepness(3.0).value(batch.scaled(rows)) for _, batch in samples.passes()))

    values = [value(climb(rows, samples, 3.0, steps, "test")) for steps in range(8)]
    assert all(after >= before * (1 - 1e-12) for before, after in itertools.pairwise(values))
    assert values[-1] > 1.5 * values[0]


def test_the_gradient_of_all_batches_is_that_of_one(samples: Samples) -> None:
    rows = unit_rows(4, 15)
    together = Samples(samples.linearizer.network, [torch.cat(samples.batches)])  # type: ignore[arg-type]
    torch.testing.assert_close(
        total_gradient(rows, samples, Steepness(3.0)), total_gradient(rows, together, Steepness(3.0))
    )
    # Linear in H where the exponent is 1.
    torch.testing.assert_close(total_gradient(rows, samples, Steepness(1.0)), 2 * rows @ mean_hessian(samples))


def test_principal_rows_are_the_leading_eigenvectors_of_the_mean_hessian(samples: Samples) -> None:
    rows = principal_rows(polar(unit_rows(8, 15)), samples, steps=60)
    vectors = torch.linalg.eigh(mean_hessian(samples))[1].flip(1).T[:3]
    torch.testing.assert_close((rows[:3] * vectors).sum(1).abs(), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------------------ the choice


def coverage(values: Tensor, chosen: tuple[int, ...]) -> float:
    return float(values[list(chosen)].amax(0).sum())


@pytest.mark.parametrize("seed", range(10))
def test_the_greedy_choice_takes_the_best_next_and_is_within_its_bound_of_the_best_set(seed: int) -> None:
    values = torch.rand(7, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).pow(4)
    chosen, gains = _greedy(values, 7)
    assert sorted(chosen) == list(range(7))
    for count in range(7):
        before = tuple(chosen[:count])
        reached = coverage(values, before) if before else 0.0
        best = max(coverage(values, (*before, other)) for other in range(7) if other not in before)
        assert coverage(values, (*before, chosen[count])) == pytest.approx(best)
        assert gains[count] == pytest.approx(best - reached)
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(gains))
    # Of Nemhauser, Wolsey and Fisher, 1978.
    for count in (2, 3):
        best = max(coverage(values, each) for each in itertools.combinations(range(7), count))
        assert coverage(values, tuple(chosen[:count])) >= (1 - 1 / torch.e) * best


def test_of_equal_members_the_earlier_is_taken_whatever_the_rounding() -> None:
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0 + 1e-7]], dtype=torch.float64)
    for _ in range(10):
        chosen, gains = _greedy(values * (1 + 1e-9 * torch.rand_like(values)), 4)
        assert chosen == [0, 1, 2, 3]
        assert gains[2:] == pytest.approx([0, 0], abs=1e-6)


def test_descending_order_with_ties() -> None:
    values = torch.tensor([1.0, 3.0, 3.0 + 1e-6, 0.0, 2.0])
    assert _descending(values, 4) == [1, 2, 4, 0]
    assert _descending(values, 9) == [1, 2, 4, 0, 3]
    assert _descending(torch.zeros(3), 2) == [0, 1]


# ---------------------------------------------------------------------------------------- on trained networks


@pytest.fixture
def of_tms(trained_tms: TMSTarget) -> Samples:
    inputs = torch.cat(trained_tms.feature_inputs(40)).float()
    linearizer = Linearizer.prepare(trained_tms, MSE(), inputs)
    return Samples(trained_tms, [inputs], Scale(0.6667, 1e-3, float(linearizer(inputs).trace.mean())))


def features(target: TMSTarget) -> Tensor:
    """Each feature's own direction: the leading eigenvector of its mean Hessian, by float64 brute force."""
    network = SmallNetwork(target.build(), ("*",))
    network.module.load_state_dict({name: tensor.detach().clone() for name, tensor in target.weights.items()})
    network.module.double()
    means = [dense_hessian(network, MSE(), part.double()).mean(0) for part in target.feature_inputs(10)]
    return torch.stack([torch.linalg.eigh(H)[1][:, -1] for H in means])


@pytest.mark.parametrize("wanted", [5, None])
def test_the_choice_finds_five_features_in_tms_and_its_gains_count_them(
    of_tms: Samples, trained_tms: TMSTarget, wanted: int | None
) -> None:
    choice = choose(of_tms, wanted, 15, torch.zeros(()), Start(samples=200), 3.0, seed=0)
    assert len(choice.rows) == 5
    assert sum(gain > 0.1 for gain in choice.gains) == 5
    assert choice.gains[0] == 1.0
    cosine = (choice.rows.double() @ features(trained_tms).T).abs()
    assert sorted(cosine.argmax(1).tolist()) == list(range(5))
    assert cosine.amax(1).min() > 0.9
    torch.testing.assert_close(choice.rows.norm(dim=1), torch.ones(5))
    again = choose(of_tms, wanted, 15, torch.zeros(()), Start(samples=200), 3.0, seed=0)
    assert torch.equal(again.rows, choice.rows)


def test_sharing_is_one_where_each_sample_has_a_direction_of_its_own(of_tms: Samples) -> None:
    choice = choose(of_tms, 5, 15, torch.zeros(()), Start(samples=200), 3.0, seed=0)
    assert 1 <= choice.sharing < 3


def test_more_directions_than_the_pool_holds_are_filled_up(samples: Samples) -> None:
    choice = choose(samples, 60, 15, torch.zeros((), dtype=torch.float64), Start(), 3.0, seed=0)
    assert choice.rows.shape == (60, 15)
    torch.testing.assert_close(choice.rows.norm(dim=1), torch.ones(60, dtype=torch.float64))


def test_a_sample_that_nothing_covers_brings_its_own_direction_into_the_pool() -> None:
    """One sample in 41 has a curvature of its own kind; without its singular vector no row has to go there."""

    class Rare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(12, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    inputs = torch.zeros(41, 12, dtype=torch.float64)
    inputs[:40, :10] = torch.rand(40, 10, dtype=torch.float64)
    inputs[40, 11] = 3.0
    choice = choose(
        Samples(SmallNetwork(Rare()), [inputs]), 2, 12, torch.zeros((), dtype=torch.float64), Start(steps=1), 3.0, 0
    )
    torch.testing.assert_close(choice.rows[0].abs(), torch.eye(12, dtype=torch.float64)[11], rtol=0, atol=1e-4)


@pytest.mark.parametrize("settings", [{"samples": 0}, {"steps": -1}, {"surplus": 0.5}, {"sweeps": -1}])
def test_numbers_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"expected start\.samples"):
        Start(**settings)  # type: ignore[arg-type]
