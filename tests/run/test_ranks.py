"""The Trainer's own world decides which process this is."""

import logging

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.ranks import VARIABLES, check_scheduler, settle_rank, this_rank


@pytest.fixture(autouse=True)
def _rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    for name in (*VARIABLES, "MASTER_PORT", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)


def trainer(**settings: object) -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", VARIABLES)
def test_a_leftover_is_told_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    # As Lightning guesses when it is imported.
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with caplog.at_level(logging.WARNING):
        settle_rank(trainer())
    assert this_rank() == 0
    told = [record.message for record in caplog.records if record.name.startswith("eigen_lightning")]
    assert [f"{name}=1 is left over" in text for text in told] == [True]


def test_without_a_leftover_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    settle_rank(trainer())
    assert not [record for record in caplog.records if record.name.startswith("eigen_lightning")]


def test_a_leftover_that_would_have_others_waited_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match="unset LOCAL_RANK"):
        settle_rank(trainer(devices=2, strategy="ddp"))


def test_a_process_that_srun_did_not_start_waits_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NTASKS": "2", "NTASKS_PER_NODE": "2", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(UserError, match="srun eigen-lightning fit"):
        settle_rank(trainer(devices=2, strategy="ddp"))
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    settle_rank(trainer(devices=2, strategy="ddp"))


def test_tasks_that_lightning_cannot_count_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    check_scheduler()
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(UserError, match=r"SLURM_NTASKS=4.*--ntasks-per-node=N.*srun eigen-lightning fit"):
        check_scheduler()
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    check_scheduler()
