"""Toy samples: what they are, and that each depends on (seed, epoch, index) alone."""

import pytest
import torch

from eigen_lightning.data import TMS, XOR, SampleStream
from eigen_lightning.data.generated import BLOCK
from eigen_lightning.run.errors import UserError


def prepared(stream: SampleStream) -> SampleStream:
    stream.setup()
    return stream


def train_inputs(stream: SampleStream, epoch: int = 0) -> torch.Tensor:
    loader = prepared(stream).train_dataloader()
    loader.sampler.set_epoch(epoch)
    return torch.cat([batch.inputs for batch in loader])


STREAMS = [
    lambda **options: XOR(samples_per_epoch=3000, **options),
    lambda **options: TMS(features=5, samples_per_epoch=3000, heldout_samples=50, values_per_feature=4, **options),
]


def test_xor_shows_the_four_inputs_once_in_every_four_samples_in_random_order() -> None:
    groups = train_inputs(XOR(batch_size=8, samples_per_epoch=4096, seed=0)).reshape(-1, 4, 2)
    codes = (groups @ torch.tensor([2.0, 1.0])).long()
    assert (codes.sort(dim=1).values == torch.arange(4)).all()
    # Each of the 24 orders comes up about 1024 / 24 = 43 times.
    counts = (codes @ torch.tensor([64, 16, 4, 1])).unique(return_counts=True)[1]
    assert len(counts) == 24
    assert counts.min() > 20
    assert counts.max() < 75


def test_xor_holds_out_its_four_inputs_in_order() -> None:
    stream = prepared(XOR())
    (loader,) = stream.val_dataloader()
    (batch,) = list(loader)
    assert batch.inputs.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert batch.sample_id.tolist() == [0, 1, 2, 3]


def test_tms_features_are_present_with_their_probability_uniform_and_independent() -> None:
    inputs = train_inputs(TMS(features=4, probability=0.3, samples_per_epoch=65536, seed=1, empty_samples=True))
    present = inputs > 0
    assert inputs.dtype == torch.float32
    assert inputs.min() >= 0
    assert inputs.max() <= 1
    # Five standard errors each.
    n = len(inputs)
    assert (present.float().mean(dim=0) - 0.3).abs().max() < 5 * (0.3 * 0.7 / n) ** 0.5
    values = inputs[present]
    assert (values.mean() - 0.5).abs() < 5 * (1 / 12 / len(values)) ** 0.5
    assert (values.square().mean() - 1 / 3).abs() < 5 * (4 / 45 / len(values)) ** 0.5
    both = present.float().T @ present.float() / n
    pairs = both[~torch.eye(4, dtype=torch.bool)]
    assert (pairs - 0.09).abs().max() < 5 * (0.09 * 0.91 / n) ** 0.5


def test_tms_single_feature_set_has_one_feature_each_spread_evenly() -> None:
    stream = prepared(TMS(features=3, values_per_feature=4))
    inputs = stream.evaluation_sets["single_feature"].inputs
    assert ((inputs > 0).sum(dim=1) == 1).all()
    for feature in range(3):
        assert inputs[inputs[:, feature] > 0, feature].sort().values.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_tms_held_out_samples_are_not_training_samples() -> None:
    stream = prepared(TMS(features=5, probability=0.9, samples_per_epoch=4096, heldout_samples=4096, seed=0))
    heldout = stream.evaluation_sets["heldout"].inputs
    assert list(stream.evaluation_sets) == ["heldout", "single_feature"]
    assert not (train_inputs(stream)[:1024, None] == heldout[None, :1024]).all(dim=2).any()


@pytest.mark.parametrize("make", STREAMS)
def test_batching_ranks_and_order_of_access_change_no_sample(make) -> None:
    whole = train_inputs(make(batch_size=3000, seed=3), epoch=2)
    assert torch.equal(train_inputs(make(batch_size=24, seed=3), epoch=2), whole)
    samples = prepared(make(seed=3)).train_set
    for epoch in (0, 1):
        samples.batch(epoch, torch.arange(3000))  # a set that was asked for other epochs gives this one no less
    scattered = torch.randperm(3000)[:200]
    assert torch.equal(samples.batch(2, scattered).inputs, whole[scattered])
    assert torch.equal(samples.batch(2, torch.tensor([BLOCK - 1, BLOCK])).inputs, whole[BLOCK - 1 : BLOCK + 1])


@pytest.mark.parametrize("make", STREAMS)
def test_epochs_and_seeds_give_fresh_samples(make) -> None:
    first = train_inputs(make(batch_size=3000, seed=3))
    assert torch.equal(train_inputs(make(batch_size=3000, seed=3)), first)
    assert not torch.equal(train_inputs(make(batch_size=3000, seed=3), epoch=1), first)
    assert not torch.equal(train_inputs(make(batch_size=3000, seed=4)), first)
    # Blocks differ too: a stream that began anew with each would show its first samples again.
    assert not torch.equal(first[BLOCK : 2 * BLOCK], first[:BLOCK])


@pytest.mark.parametrize("make", STREAMS)
def test_sample_ids_are_unique_over_epochs_and_sets_and_describe_their_sample(make) -> None:
    stream = prepared(make(batch_size=100, seed=0))
    seen = {}
    for epoch in range(2):
        for index in (0, 1, 2999):
            batch = stream.train_set.batch(epoch, torch.tensor([index]))
            seen[int(batch.sample_id)] = (stream.train_set, batch.inputs[0])
    for samples in stream.evaluation_sets.values():
        batch = samples.batch(1, torch.arange(len(samples)))
        assert torch.equal(batch.sample_id, samples.batch(0, torch.arange(len(samples))).sample_id)
        for sample_id, inputs in zip(batch.sample_id.tolist(), batch.inputs, strict=True):
            assert sample_id not in seen
            seen[sample_id] = (samples, inputs)
    assert len(seen) == 6 + sum(map(len, stream.evaluation_sets.values()))
    fresh = prepared(make(batch_size=100, seed=0))
    sets = {samples.name: samples for samples in (fresh.train_set, *fresh.evaluation_sets.values())}
    for sample_id, (samples, inputs) in seen.items():
        shown = sets[samples.name].describe(sample_id)
        assert shown["input"] == pytest.approx(inputs.tolist(), abs=5e-5)
    with pytest.raises(IndexError, match="not in 'heldout'"):
        fresh.evaluation_sets["heldout"].describe(len(fresh.evaluation_sets["heldout"]))


def test_fingerprint_tells_streams_apart_and_ignores_how_they_are_loaded() -> None:
    def fingerprint(**options: object) -> str:
        return prepared(TMS(**{"features": 5, "seed": 0, **options})).fingerprint()

    same = fingerprint()
    assert len(same) == 64
    assert fingerprint(num_workers=2, batch_size=64) == same
    others = [fingerprint(seed=1), fingerprint(probability=0.1), fingerprint(samples_per_epoch=64), same]
    assert len(set(others)) == 4


def test_seed_of_the_run_is_used_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert torch.equal(train_inputs(TMS(features=5)), train_inputs(TMS(features=5, seed=7)))
    assert not torch.equal(train_inputs(TMS(features=5)), train_inputs(TMS(features=5, seed=8)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: XOR(batch_size=0), "batch_size of at least 1, got 0"),
        (lambda: XOR(num_workers=-1), "num_workers of at least 0, got -1"),
        (lambda: XOR(samples_per_epoch=0), "samples_per_epoch of at least 1, got 0"),
        (lambda: TMS(features=0), "features of at least 1, got 0"),
        (lambda: TMS(heldout_samples=0), "heldout_samples of at least 1, got 0"),
        (lambda: TMS(probability=0.0), r"probability in \(0, 1\], got 0.0"),
        (lambda: TMS(probability=1.5), r"probability in \(0, 1\], got 1.5"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
