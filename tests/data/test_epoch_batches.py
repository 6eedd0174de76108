"""Which rank gets which sample."""

from itertools import chain

import numpy as np
import pytest

from eigen_lightning.data.epoch_batches import EpochBatches
from eigen_lightning.run.errors import UserError


def indices(batches: EpochBatches) -> list[list[int]]:
    return [share.tolist() for _, share in batches]


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_together_see_each_global_batch_of_one_process(world_size: int, shuffle: bool) -> None:
    options = {"n_samples": 100, "batch_size": 12, "shuffle": shuffle, "drop_last": True, "epoch": 3, "seed": 5}
    whole = indices(EpochBatches(**options))
    ranks = [indices(EpochBatches(**options, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len(whole) == 8
    for batch, shares in zip(whole, zip(*ranks, strict=True), strict=True):
        assert {len(share) for share in shares} == {12 // world_size}
        assert sorted(chain(*shares)) == sorted(batch)


@pytest.mark.parametrize("n_samples", [1, 3, 4, 8, 9, 13, 21])
@pytest.mark.parametrize("world_size", [1, 2, 4, 5])
def test_evaluation_gives_every_sample_once_whatever_the_sizes(n_samples: int, world_size: int) -> None:
    samplers = [EpochBatches(n_samples, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    ranks = [indices(sampler) for sampler in samplers]
    assert sorted(index for rank in ranks for share in rank for index in share) == list(range(n_samples))
    assert all(share for rank in ranks for share in rank)
    assert [len(sampler) for sampler in samplers] == [len(rank) for rank in ranks]
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1


def test_order_is_a_permutation_of_seed_and_epoch() -> None:
    batches = EpochBatches(50, 10, shuffle=True, seed=1)
    first = indices(batches)
    assert sorted(chain(*first)) == list(range(50))
    assert indices(batches) == first
    batches.set_epoch(1)
    assert indices(batches) != first
    assert [epoch for epoch, _ in batches] == [1] * 5
    assert indices(EpochBatches(50, 10, shuffle=True, seed=1, epoch=1)) == indices(batches)
    assert indices(EpochBatches(50, 10, shuffle=True, seed=2)) != first


def test_resumed_epoch_starts_late_and_the_next_one_does_not() -> None:
    batches = EpochBatches(50, 10, shuffle=True, epoch=2, start=3)
    whole = EpochBatches(50, 10, shuffle=True, epoch=2)
    assert len(batches) == 5
    batches.set_epoch(2)
    assert indices(batches) == indices(whole)[3:]
    batches.set_epoch(3)
    whole.set_epoch(3)
    assert indices(batches) == indices(whole)


def test_an_epoch_already_running_is_not_disturbed_by_set_epoch() -> None:
    batches = EpochBatches(20, 10, shuffle=True)
    want = indices(batches)
    running = iter(batches)
    got = [next(running)[1].tolist()]
    batches.set_epoch(1)
    assert [*got, next(running)[1].tolist()] == want


def test_shares_are_arrays_that_workers_get_by_value() -> None:
    _, share = next(iter(EpochBatches(10, 5, shuffle=True)))
    assert isinstance(share, np.ndarray)
    assert share.dtype == np.int64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 100, "batch_size": 10, "world_size": 4}, "4 devices can share evenly, got 10; use 8"),
        ({"n_samples": 100, "batch_size": 2, "world_size": 4}, "got 2; use 4"),
        ({"n_samples": 7, "batch_size": 8, "world_size": 2}, "got 7 samples; use a batch_size of at most 6"),
        ({"n_samples": 1, "batch_size": 8, "world_size": 2}, "use more samples or fewer devices"),
    ],
)
def test_impossible_training_batches_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EpochBatches(**options, drop_last=True)
    assert sum(len(share) for _, share in EpochBatches(**options)) > 0
