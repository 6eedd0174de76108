"""What learning reaches, on networks whose features are known."""

from pathlib import Path
from typing import Any

import pytest
import torch

from eigen_lightning.analysis.health import duplicates
from eigen_lightning.analysis.recovery import assign
from eigen_lightning.curvature import TraceNormalization
from eigen_lightning.data import TMS, XOR
from eigen_lightning.directions import PolarAscent, Start
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.targets import TMSTarget, XORTarget
from tests.toy_runs import bare_trainer, fit

NORMALIZED: dict[str, Any] = {"normalization": TraceNormalization(power=0.6667)}


@pytest.fixture(scope="module")
def learned_tms(toy_folder: Path) -> SparseEigendecomposition:
    """As in configs/tms.yaml, the number of directions left open."""
    module = SparseEigendecomposition(TMSTarget(), "auto", start=Start(samples=2048, steps=20), **NORMALIZED)
    data = TMS(batch_size=1024, samples_per_epoch=8192, seed=0)
    bare_trainer(toy_folder / "tms", 1, limit_val_batches=0).fit(module, datamodule=data)
    return module


def test_the_number_of_features_of_tms_is_found_and_so_is_each(learned_tms: SparseEigendecomposition) -> None:
    assert len(learned_tms.U) == learned_tms.n_directions == 5
    assert learned_tms.objective_name == "auto"
    assert learned_tms.learned.objective == "coverage"
    assert sum(gain > 0.1 for gain in learned_tms.learned.gains) == 5
    shares = []
    for inputs in learned_tms.target.feature_inputs(20):
        d = learned_tms.linearizer(inputs).d2D(learned_tms.U.detach()).mean(1)
        shares.append(d / d.sum())
    leading = torch.stack(shares)
    assert sorted(leading.argmax(1).tolist()) == list(range(5))
    assert leading.amax(1).min() > 0.7


def test_the_facts_of_the_manifest(learned_tms: SparseEigendecomposition) -> None:
    facts = learned_tms.curvature_facts()
    assert facts["gains_above_a_tenth"] == 5
    assert facts["objective"] == "coverage"
    assert facts["pulled_back_metric"] is False


def test_xor_has_three_directions_one_for_each_input(toy_folder: Path) -> None:
    module = SparseEigendecomposition(XORTarget(), 3, start=Start(samples=64), **NORMALIZED)
    data = XOR(batch_size=64, samples_per_epoch=512, seed=0)
    bare_trainer(toy_folder / "xor", 1, limit_val_batches=0).fit(module, datamodule=data)
    inputs = torch.cat(module.target.feature_inputs(1))
    d = module.linearizer(inputs).d2D(module.U.detach())
    assert sorted(d.argmax(0).tolist()) == [0, 1, 2]
    assert (d.amax(0) / d.sum(0)).min() > 0.6


@pytest.mark.parametrize("objective", ["coverage", "steepness"])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_outputs_times_a_thousand_give_the_same_directions(tmp_path: Path, power: float, objective: Any) -> None:
    settings = {"normalization": TraceNormalization(power=power), "samples": 1024, "objective": objective}
    one, other = (fit(tmp_path, factor=factor, **settings).U.detach() for factor in (1.0, 1000.0))
    # The pentagon's symmetry leaves the order of the rows to rounding.
    assert assign(one, other)[1].min() > 1 - 1e-4


def test_outputs_times_a_thousand_mean_the_same_lambda_and_learning_rate(tmp_path: Path) -> None:
    settings = {
        "stage1": lambda params: torch.optim.Adam(params, lr=0.01),
        "start": Start(steps=0, samples=256),
        "interference_weight": 3.0,
        "samples": 1024,
    }
    one, other = (fit(tmp_path, factor=factor, **settings).U.detach() for factor in (1.0, 1000.0))
    assert assign(one, other)[1].min() > 1 - 1e-4


def test_the_start_comes_from_the_seed(tmp_path: Path) -> None:
    again = [fit(tmp_path, samples=256, start=Start(steps=10, samples=256)).U.detach() for _ in range(2)]
    assert torch.equal(*again)


def test_stage_2_keeps_groups_apart_where_there_are_more_directions_than_parameters(tmp_path: Path) -> None:
    """20 directions in 15 dimensions are two orthonormal groups; each alone goes for the same features."""
    settings = {"directions": 20, "epochs": 2, "samples": 4096, "exponent": 2.0}
    without = fit(tmp_path, **settings).U.detach()
    apart = fit(tmp_path, interference_weight=3.0, **settings).U.detach()
    assert len(duplicates(without)) > len(duplicates(apart))
    for group in apart.chunk(2):
        torch.testing.assert_close(group @ group.T, torch.eye(10), atol=1e-5, rtol=0)


def test_free_directions_follow_truths_that_overlap(tmp_path: Path) -> None:
    """Free, d2D on each feature's samples rises above what orthonormal directions can reach."""
    held = fit(tmp_path)
    free = fit(tmp_path, objective="coverage")
    gram = free.U.detach() @ free.U.detach().T
    torch.testing.assert_close(gram.diagonal(), torch.ones(5))
    assert 0.01 < float((gram - torch.eye(5)).abs().max()) < 0.5
    inputs = torch.cat(held.target.feature_inputs(20))
    reached = [float(module.linearizer(inputs).d2D(module.U.detach()).amax(0).mean()) for module in (held, free)]
    assert reached[1] > reached[0]


def test_auto_takes_steepness_where_many_directions_share_a_sample(tmp_path: Path) -> None:
    """The pentagon's samples are shared by two or three: the threshold decides."""
    for above, objective, orthonormal in ((0.5, "steepness", True), (100.0, "coverage", False)):
        module = fit(tmp_path, samples=256, objective="auto", dense_above=above)
        assert module.learned.objective == objective
        assert module.learned.exponent == (1.5 if objective == "steepness" else 3.0)
        group = module.trainer.optimizers[0].param_groups[0]
        assert group["orthonormal"] == orthonormal
        assert isinstance(module.trainer.optimizers[0], PolarAscent)
