"""Several steps a batch: the same as as many batches, however they are computed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eigen_lightning.data import TMS, XOR
from eigen_lightning.learning import SparseEigendecomposition, TraceNormalization
from eigen_lightning.learning.parts import representatives, split
from eigen_lightning.run.errors import UserError
from eigen_lightning.targets import XORTarget
from tests.learning.test_module import PUBLISHED, bare_trainer
from tests.toy_runs import Pentagon

STEPS = 12


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def learned(folder: Path, parts: int, steps: int = STEPS, samples: int = 32, **model: Any) -> Tensor:
    """U after a number of steps on the pentagon, so many to a batch."""
    module = SparseEigendecomposition(Pentagon(), 5, steps_per_batch=parts, **model)
    data = TMS(probability=0.1, batch_size=samples * parts, samples_per_epoch=samples * steps, seed=0)
    trainer = bare_trainer(folder, 1)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == steps // parts
    return module.U.detach()


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_several_steps_a_batch_are_the_steps_of_as_many_batches(tmp_path: Path, power: float) -> None:
    """Whatever is not computed in parts, stage 2 included, goes another way, and must arrive at the same place."""
    model: dict[str, Any] = {"normalization": TraceNormalization(power=power), "starts": None}
    singly = learned(tmp_path, 1, **model)
    torch.testing.assert_close(learned(tmp_path, 4, **model), singly, rtol=0, atol=2e-6)
    by_nested = learned(tmp_path, 1, curvature="nested", **model)
    torch.testing.assert_close(singly, by_nested, rtol=0, atol=2e-6)
    assert not torch.allclose(singly, learned(tmp_path, 1, steps=STEPS - 1, **model), atol=1e-4)


def test_both_stages_of_every_part(tmp_path: Path) -> None:
    torch.testing.assert_close(learned(tmp_path, 3, **PUBLISHED), learned(tmp_path, 1, **PUBLISHED), rtol=0, atol=2e-6)


def test_representatives_stand_for_all() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(24, 3, generator=generator) * (torch.rand(24, 1, generator=generator) < 0.4)
    inputs[:6] = 0
    inputs[6:12] = 1
    which, counts = representatives(inputs, 4)
    for part, rows in enumerate(torch.arange(24).split(6)):
        assert set(which[part][counts[part] > 0].tolist()) <= set(rows.tolist())
        # Each distinct input as often as it is there.
        for row in inputs[rows].unique(dim=0):
            same = (inputs[which[part]] == row).all(1)
            assert counts[part][same].sum() == (inputs[rows] == row).all(1).sum()
    assert which.shape[1] == 6
    assert (counts > 0).sum() < 24


def test_parts_of_a_batch_are_in_order() -> None:
    data = TMS(batch_size=8, samples_per_epoch=16, seed=0)
    data.setup()
    batch = data.train_set.batch(0, torch.arange(8))
    parts = split(batch, 4)
    assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
    assert torch.equal(torch.cat([part.sample_id for part in parts]), batch.sample_id)


def test_a_batch_that_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    module = SparseEigendecomposition(XORTarget(), 3, steps_per_batch=3)
    with pytest.raises(UserError, match="steps_per_batch of 3 cut in equal parts, got 8; use 9"):
        bare_trainer(tmp_path, 1).fit(module, datamodule=XOR(batch_size=8, samples_per_epoch=8, seed=0))


def test_a_part_that_is_not_finite_is_named(tmp_path: Path) -> None:
    class Spoiled(TMS):
        def setup(self, stage: str | None = None) -> None:
            super().setup(stage)
            original = self.train_set.batch

            def batch(epoch: int, indices: Tensor) -> Any:
                found = original(epoch, indices)
                return found._replace(
                    inputs=torch.where(found.sample_id[:, None] % 1000 == 900, torch.inf, found.inputs)
                )

            self.train_set.batch = batch  # type: ignore[method-assign]

    module = SparseEigendecomposition(Pentagon(), 5, steps_per_batch=4, starts=None, normalization=None)
    data = Spoiled(probability=0.1, batch_size=128, samples_per_epoch=1024, seed=0)
    with pytest.raises(UserError, match="sample 4900"):
        bare_trainer(tmp_path, 1).fit(module, datamodule=data)
