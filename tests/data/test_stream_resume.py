"""The stream under Lightning: resumed at any batch, sharded over processes, left in place."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from recording import Recording, quiet_trainer

from eigen_lightning.data import TMS, SampleStream, TinyStories
from eigen_lightning.run.errors import UserError


def toys(folder: Path, **options: Any) -> SampleStream:
    sizes = {"features": 5, "batch_size": 8, "samples_per_epoch": 44, "heldout_samples": 20, "values_per_feature": 2}
    return TMS(**{**sizes, **options})


def text(folder: Path, **options: Any) -> SampleStream:
    file = folder / "stories.txt"
    if not file.exists():
        file.write_text("".join(f"Once there was a number {number}.\n<|endoftext|>\n" for number in range(60)))
    return TinyStories(str(file), context_length=8, n_sequences=43, **{"batch_size": 8, "seed": 0, **options})


class SaveEverywhere(Callback):
    """Writes a checkpoint from every hook in which a run may be stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _save(self, trainer: Any, module: Recording, hook: str) -> None:
        trainer.save_checkpoint(
            self.folder / f"{len(list(self.folder.glob('*'))):03d}-{hook}-{len(module.trained)}.ckpt"
        )

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        self._save(trainer, module, "batch_start")

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self._save(trainer, module, "batch_end")

    def on_validation_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self._save(trainer, module, "validation_batch_end")

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self._save(trainer, module, "validation_end")

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self._save(trainer, module, "epoch_end")


@pytest.mark.parametrize("make", [toys, text])
@pytest.mark.parametrize(
    "options", [{}, {"val_check_interval": 2}, {"limit_train_batches": 3}, {"limit_val_batches": 0}]
)
def test_resumed_anywhere_the_stream_goes_on_with_the_next_batch(tmp_path: Path, make: Any, options: Any) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    whole = Recording()
    quiet_trainer(tmp_path, callbacks=[SaveEverywhere(checkpoints)], **options).fit(whole, make(tmp_path))
    batches = options.get("limit_train_batches", 5)
    assert [(epoch, batch) for epoch, batch, _ in whole.trained] == [(e, b) for e in range(3) for b in range(batches)]
    for checkpoint in sorted(checkpoints.iterdir()):
        resumed = Recording()
        trainer = quiet_trainer(tmp_path, **options)
        trainer.fit(resumed, make(tmp_path), ckpt_path=checkpoint, weights_only=True)
        done = int(checkpoint.stem.rsplit("-", 1)[1])
        assert resumed.trained == whole.trained[done:], checkpoint.name
        assert trainer.global_step == len(whole.trained)


@pytest.mark.parametrize("make", [toys, text])
def test_workers_that_run_ahead_do_not_shift_the_stream(tmp_path: Path, make: Any) -> None:
    whole = Recording()
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
    trainer = quiet_trainer(tmp_path, callbacks=[saving], enable_checkpointing=True, val_check_interval=2)
    trainer.fit(whole, make(tmp_path, num_workers=2))
    unbroken = Recording()
    quiet_trainer(tmp_path).fit(unbroken, make(tmp_path))
    assert whole.trained == unbroken.trained
    first = quiet_trainer(tmp_path, max_epochs=1)
    first.fit(Recording(), make(tmp_path))
    first.save_checkpoint(tmp_path / "step=5-and-epoch-over.ckpt")
    for step, name in ((3, "step=3"), (5, "step=5"), (5, "step=5-and-epoch-over"), (8, "step=8")):
        resumed = Recording()
        trainer = quiet_trainer(tmp_path, val_check_interval=2)
        trainer.fit(resumed, make(tmp_path, num_workers=2), ckpt_path=tmp_path / f"{name}.ckpt", weights_only=True)
        assert resumed.trained == whole.trained[step:]


def test_a_step_that_failed_is_repeated(tmp_path: Path) -> None:
    class Failing(Recording):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            if len(self.trained) == 7:
                self.trainer.save_checkpoint(tmp_path / "failed.ckpt")
                raise RuntimeError("planted")
            super().training_step(batch, batch_idx)

    whole, failing, resumed = Recording(), Failing(), Recording()
    quiet_trainer(tmp_path).fit(whole, toys(tmp_path))
    with pytest.raises(RuntimeError, match="planted"):
        quiet_trainer(tmp_path).fit(failing, toys(tmp_path))
    quiet_trainer(tmp_path).fit(resumed, toys(tmp_path), ckpt_path=tmp_path / "failed.ckpt", weights_only=True)
    assert failing.trained + resumed.trained == whole.trained


def test_resuming_warns_of_nothing_and_draws_no_global_chance(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1, save_on_train_epoch_end=False)
    quiet_trainer(tmp_path, callbacks=[saving], enable_checkpointing=True, max_epochs=1).fit(
        Recording(), toys(tmp_path)
    )
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable.*")
        trainer = quiet_trainer(tmp_path)
        trainer.fit(Recording(), toys(tmp_path), ckpt_path=tmp_path / "step=3.ckpt", weights_only=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_samples_are_refused_on_resume_and_welcome_in_validation(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(Recording(), toys(tmp_path))
    trainer.save_checkpoint(tmp_path / "done.ckpt")
    for change, message in [
        ({"probability": 0.5}, "expected the checkpoint's samples"),
        ({"seed": 9}, "restore the data fields and the seed"),
        ({"batch_size": 4}, "batch_size of 8 to resume from it, got 4"),
    ]:
        trainer = quiet_trainer(tmp_path)
        with pytest.raises(UserError, match=message):
            trainer.fit(Recording(), toys(tmp_path, **change), ckpt_path=tmp_path / "done.ckpt", weights_only=True)
        module = Recording()
        quiet_trainer(tmp_path).validate(module, toys(tmp_path, **change), tmp_path / "done.ckpt", weights_only=True)
        assert module.evaluated


def test_evaluation_runs_over_every_set_in_order_and_prediction_over_the_held_out(tmp_path: Path) -> None:
    module, stream = Recording(), toys(tmp_path)
    quiet_trainer(tmp_path).validate(module, stream, verbose=False)
    assert [(loader, i) for loader, ids in module.evaluated for i in ids] == [
        *((0, i) for i in range(20)),
        *((1, i) for i in range(20, 30)),
    ]
    assert [i for ids in quiet_trainer(tmp_path).predict(module, stream) for i in ids] == list(range(20))


def test_overfit_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="overfit_batches of 0, got 1; use limit_train_batches"):
        quiet_trainer(tmp_path, overfit_batches=1).fit(Recording(), toys(tmp_path))


class Shares(Recording):
    """Writes what this rank was given."""

    folder: Path

    def on_fit_end(self) -> None:
        torch.save((self.trained, self.evaluated), self.folder / f"rank{self.global_rank}.pt")


@pytest.mark.parametrize("make", [toys, text])
def test_two_processes_share_what_one_sees(tmp_path: Path, make: Any) -> None:
    alone = Recording()
    quiet_trainer(tmp_path, max_epochs=2).fit(alone, make(tmp_path))
    module = Shares()
    module.folder = tmp_path
    trainer = quiet_trainer(tmp_path, max_epochs=2, devices=2, strategy="ddp_fork")
    trainer.fit(module, make(tmp_path))
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for (epoch, batch, ids), *shares in zip(alone.trained, *(trained for trained, _ in ranks), strict=True):
        assert [share[:2] for share in shares] == [(epoch, batch)] * 2
        assert [len(share[2]) for share in shares] == [4, 4]
        assert sorted(shares[0][2] + shares[1][2]) == sorted(ids)
    for loader in {number for number, _ in alone.evaluated}:
        want = sorted(i for number, ids in alone.evaluated if number == loader for i in ids)
        got = sorted(i for _, evaluated in ranks for number, ids in evaluated if number == loader for i in ids)
        assert got == want


def test_a_held_out_set_smaller_than_the_number_of_processes_hangs_nothing(tmp_path: Path) -> None:
    module = Shares()
    module.folder = tmp_path
    stream = toys(tmp_path, heldout_samples=1)
    quiet_trainer(tmp_path, max_epochs=1, devices=2, strategy="ddp_fork").fit(module, stream)
    heldout = [[ids for loader, ids in torch.load(tmp_path / f"rank{rank}.pt")[1] if loader == 0] for rank in range(2)]
    assert heldout == [[[0]], []]
