"""Which of several processes this is: what the Trainer says, not what is left over in the environment."""

import logging
import os

from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from eigen_lightning.run.errors import UserError

log = logging.getLogger(__name__)

VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""From which Lightning guesses a rank before there is a Trainer."""


def this_rank() -> int:
    """This process's rank; before :func:`settle_rank` a guess from the environment."""
    return int(getattr(rank_zero_only, "rank", 0))


def settle_rank(trainer: Trainer) -> None:
    """Take this process's rank from the trainer's own world; a variable that says otherwise is told as left over.

    Raises:
        UserError: where the trainer would wait for processes that nobody starts.
    """
    _check_that_others_come(trainer)
    rank = trainer.global_rank
    if this_rank() == rank:
        return
    left_over = [f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name, "0") != "0"]
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if left_over and trainer.world_size == 1:
        log.warning(
            "%s is left over in the environment: this run is one process, of rank 0; unset it", ", ".join(left_over)
        )


def _check_that_others_come(trainer: Trainer) -> None:
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size == 1:
        return
    if isinstance(environment, SLURMEnvironment) and not {"SLURM_STEP_ID", "SLURM_STEPID"} & set(os.environ):
        raise UserError(
            f"expected srun to start the {trainer.world_size} processes of this job, got a process that it did not "
            "start: write `srun eigen-lightning fit ...` in the batch script"
        )
    # Without a port to meet at, which whoever starts all processes gives to each, they never find each other.
    local = "LOCAL_RANK" in os.environ and "MASTER_PORT" not in os.environ
    if isinstance(environment, LightningEnvironment) and local:
        raise UserError(
            f"expected LOCAL_RANK from a launcher, beside MASTER_PORT, got LOCAL_RANK={os.environ['LOCAL_RANK']} "
            "alone, which is left over: unset LOCAL_RANK, or start with torchrun"
        )


def check_scheduler() -> None:
    """Refuse a SLURM job of several tasks of which this is the only process, before Lightning fails on it.

    Raises:
        UserError: with what to write in the batch script.
    """
    if not SLURMEnvironment.detect():
        return
    tasks = int(os.environ["SLURM_NTASKS"])
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise UserError(
            f"expected a SLURM job of one task, or of tasks counted by node, got SLURM_NTASKS={tasks}: ask for "
            "--ntasks=1, or for --ntasks-per-node=N (as many as trainer.devices) and start with `srun eigen-lightning "
            "fit ...`"
        )
