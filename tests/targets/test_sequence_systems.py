"""Modular addition and induction: networks against transparent ones, figures on responses written down."""

from pathlib import Path

import pytest
import torch

from eigen_lightning.data import Drawn, Pairs
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import InductionTarget, ModularTarget, TMSTarget
from eigen_lightning.targets.toys.modular import frequency_share
from tests.toy_runs import trained

P = 13


def modular(folder: Path) -> ModularTarget:
    """Small, and taken long before it has grokked."""
    target = ModularTarget(modulus=P, d_model=8, steps=200, accepted_loss=1e9)
    trained(target, folder)
    return target


def induction(folder: Path) -> InductionTarget:
    target = InductionTarget(vocabulary=7, length=13, d_model=8, steps=200, accepted_loss=1e9)
    trained(target, folder)
    return target


def test_attention_of_the_last_token_is_that_of_torch(tmp_path: Path) -> None:
    network = modular(tmp_path).network
    pairs = torch.randint(P, (6, 2))
    tokens = torch.cat([pairs, torch.full((6, 1), P)], 1)
    stream = network.W_E[tokens] + network.W_pos
    split = [(stream @ W.T).view(6, 3, 4, 2).transpose(1, 2) for W in (network.W_Q, network.W_K, network.W_V)]
    mixed = torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).reshape(6, 3, 8)[:, -1]
    last = stream[:, -1] + mixed @ network.W_O.T
    last = last + torch.relu(last @ network.W_in.T + network.b_in) @ network.W_out.T
    torch.testing.assert_close(network(pairs), last @ network.W_U.T, rtol=1e-4, atol=1e-5)


def test_causal_attention_is_that_of_torch(tmp_path: Path) -> None:
    network = induction(tmp_path).network
    tokens = torch.randint(7, (3, 13))
    stream = network.W_E[tokens] + network.W_pos
    for layer in range(2):
        split = [
            (stream @ getattr(network, f"W_{which}{layer}").T).view(3, 13, 2, 4).transpose(1, 2) for which in "QKV"
        ]
        mixed = torch.nn.functional.scaled_dot_product_attention(*split, is_causal=True)
        stream = stream + mixed.transpose(1, 2).reshape(3, 13, 8) @ getattr(network, f"W_O{layer}").T
    torch.testing.assert_close(network(tokens), stream @ network.W_U.T, rtol=1e-4, atol=1e-5)


def test_a_response_in_one_frequency_has_all_of_it_and_noise_little() -> None:
    a, b = torch.meshgrid(torch.arange(P), torch.arange(P), indexing="ij")
    wave = (2 * torch.pi * 3 * (a + b) / P).cos()
    double = (1 + wave).square()
    assert frequency_share(double[None]).item() == pytest.approx(1)
    two = wave + (2 * torch.pi * 4 * a / P).cos()
    assert frequency_share(two[None].double()).item() == pytest.approx(0.5, abs=1e-6)
    noise = frequency_share(torch.rand(200, P, P))
    assert noise.mean() < 0.35
    assert frequency_share(torch.ones(1, P, P)).item() == 0


def test_pairs_are_all_there_once(tmp_path: Path) -> None:
    data = Pairs(heldout_fraction=0.25, batch_size=16, seed=0)
    data.for_target = modular(tmp_path)
    data.setup()
    sets = [data.train_set, data.evaluation_sets["heldout"]]
    pairs = torch.cat([each.batch(0, torch.arange(len(each))).inputs for each in sets])
    assert len(pairs) == P * P == len(pairs.unique(dim=0))
    assert len(sets[1]) == P * P // 4


def test_sequences_repeat_with_their_period(tmp_path: Path) -> None:
    target = induction(tmp_path)
    tokens, period = target._drawn(200, torch.Generator().manual_seed(0))
    assert set(period.tolist()) == {4}
    assert torch.equal(tokens[:, 4:], tokens[:, :-4])
    data = Drawn(batch_size=8, samples_per_epoch=32, heldout_samples=10, seed=0)
    data.for_target = target
    data.setup()
    first, again = (data.train_set.batch(0, torch.arange(8)).inputs for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, data.train_set.batch(1, torch.arange(8)).inputs)


def test_a_direction_within_one_head_is_all_in_it(tmp_path: Path) -> None:
    target = induction(tmp_path)
    parts = {name: torch.zeros(target.space.shape_of[name]) for name in target.space.names}
    parts["W_Q1"][4:] = 1.0
    parts["W_O1"][:, 4:] = 1.0
    one = torch.nn.functional.normalize(target.space.flatten(parts), dim=0)
    spread = torch.nn.functional.normalize(torch.ones_like(one), dim=0)
    shares = target.head_shares(torch.stack([one, spread]))
    torch.testing.assert_close(shares[0], torch.tensor([0.0, 0.0, 0.0, 1.0]).double())
    torch.testing.assert_close(shares[1], torch.full((4,), 0.25).double())
    figures = target.own_figures(torch.stack([one, spread]), lambda inputs: inputs)
    assert figures["in_one_head"].tolist() == [1.0, 0.0]


def test_what_never_groks_is_refused_with_its_loss(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"groks.* after 100 steps"):
        ModularTarget(modulus=P, d_model=8, steps=100).prepare(RunFolder(tmp_path / "a"), 0)
    with pytest.raises(UserError, match=r"repeated tokens.* after 100 steps"):
        InductionTarget(vocabulary=7, length=13, d_model=8, steps=100).prepare(RunFolder(tmp_path / "b"), 0)


def test_samples_of_another_target_are_refused(tmp_path: Path) -> None:
    for data in (Pairs(), Drawn()):
        data.for_target = trained(TMSTarget(), tmp_path / type(data).__name__)
        with pytest.raises(UserError, match=r"expected a target that .* got TMSTarget"):
            data.setup()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModularTarget(d_model=6),
        lambda: ModularTarget(modulus=0),
        lambda: InductionTarget(length=8),
        lambda: InductionTarget(d_model=5),
        lambda: Pairs(heldout_fraction=1.0),
        lambda: Drawn(heldout_samples=0),
    ],
)
def test_numbers_out_of_range_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="expected"):
        make()
