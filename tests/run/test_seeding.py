import itertools

import pytest

from eigen_lightning.run.seeding import derive_seed, run_seed


def test_seeds_fit_a_torch_generator():
    seeds = [derive_seed(seed, "purpose", index) for seed, index in itertools.product(range(50), range(50))]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62, "the whole range is used"
    assert len(set(seeds)) == len(seeds)


def test_purposes_and_their_order_count():
    assert len({derive_seed(0), derive_seed(0, "a"), derive_seed(0, "a", 1), derive_seed(0, 1, "a")}) == 4


def test_seeds_stay_the_same_across_versions():
    """Resumed and repeated runs rely on it."""
    assert derive_seed(0, "training", "XOR network", 1) == 5019659158253458825
    assert derive_seed(7, "heldout") == 8969526563477623147


@pytest.mark.parametrize(("environment", "seed"), [({}, 0), ({"PL_GLOBAL_SEED": "42"}, 42)])
def test_the_runs_seed_is_the_one_lightning_shares(monkeypatch, environment, seed):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run_seed() == seed
