"""Saves the run so that it goes on as if it had never stopped."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn

from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.run import random_state, tensorboard_series
from eigen_lightning.run.collectives import reduced
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import keep_as
from eigen_lightning.run.metrics_csv import MetricsCSV
from eigen_lightning.run.stop_signals import Stopped, StopSignals

LITTLE = 10.0
"""Seconds of work that are not worth a checkpoint of their own."""


class RunCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt``, and the one before it as ``previous.ckpt``.

    It is written between two batches, where nothing is half done: at the start of an epoch, around validation, every
    ``every_n_steps`` batches, every ``every_minutes`` minutes, when a signal asks to stop, and when training ends.
    SIGTERM, SIGINT and SIGUSR1 stop a run after the batch at hand, saved; during validation or preparation at once, as
    nothing is there to be saved. A second signal always stops at once.

    Besides what Lightning keeps, the checkpoint holds the random number generators of all ranks and how far
    metrics.csv and TensorBoard had come, so that a resumed run cuts off what came later and goes on from there.

    Args:
        every_n_steps: save after this many batches; null only at the times above.
        every_minutes: save after this much time.

    Raises:
        UserError: where a number is out of range.
    """

    def __init__(self, every_n_steps: int | None = None, every_minutes: float = 10.0) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"expected every_n_steps of at least 1, got {every_n_steps}; leave it out for none")
        if not every_minutes > 0:
            raise UserError(f"expected every_minutes above 0, got {every_minutes}; use 10, say")
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._signals = StopSignals()
        self._resumed: dict[str, Any] | None = None
        self._between_batches = False
        self._validated = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._resumed = checkpoint.get("run")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = {
            "random_state": random_state.capture_all_ranks(),
            # Lightning corrects its own count for checkpoints written within a batch, which these are not.
            "batches_that_stepped": self._stepped(trainer)._batches_that_stepped if self._between_batches else None,
            **(self._logged(trainer) if trainer.is_global_zero else {}),
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        launcher = trainer.strategy.launcher
        children = isinstance(launcher, _SubprocessScriptLauncher)
        self._signals.install(launcher.kill if children else lambda signum: None)  # type: ignore[union-attr]
        self._saved_at = time.monotonic()
        if self._resumed is not None and trainer.is_global_zero:
            self._rewind(trainer, self._resumed)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        fresh = self._resumed is None
        if self._resumed is not None:
            self._align(trainer, self._resumed)
            self._resumed = None
        self._signals.patient = True
        age = time.monotonic() - self._saved_at
        late = age > self.every_minutes * 60 or (age > LITTLE and self._validation_follows(trainer, batch_idx))
        stop, due = self._agreed(trainer, self._signals.received, int(late))
        scheduled = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if stop or due or (fresh and (batch_idx == 0 or self._validated or scheduled)):
            self._save(trainer)
        self._validated = False
        if stop:
            raise Stopped(stop, self._exit_code(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signals.patient = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that is resumed from here has nothing more to log, and would never close the row.
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.finalize("success")
        self._save(trainer)
        self._signals.uninstall()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._signals.uninstall()

    # ------------------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer) -> None:
        last = run_folder_of(trainer).last_checkpoint
        if trainer.is_global_zero and last.exists():
            keep_as(last, last.with_name("previous.ckpt"))
        self._between_batches = True
        trainer.save_checkpoint(last)
        self._between_batches = False
        self._saved_at = time.monotonic()

    def _agreed(self, trainer: Trainer, *flags: int) -> list[int]:
        """The largest of each flag over ranks: all stop and save at the same batch."""
        if trainer.world_size == 1:
            return list(flags)
        tensor = torch.tensor(flags, device=trainer.strategy.root_device)
        return reduced(tensor, "max").tolist()

    @staticmethod
    def _exit_code(trainer: Trainer) -> int | None:
        # Lightning kills the process that launched others as soon as one of those fails, before it has torn down.
        environment = trainer.strategy.cluster_environment if trainer.world_size > 1 else None  # type: ignore[attr-defined]
        return 0 if isinstance(environment, LightningEnvironment) and trainer.local_rank > 0 else None

    @staticmethod
    def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
        if not trainer.enable_validation:
            return False
        every = trainer.val_check_batch
        done = batch_idx + 1
        return done == trainer.num_training_batches or (every not in (None, float("inf")) and done % every == 0)  # type: ignore[operator]

    @staticmethod
    def _stepped(trainer: Trainer) -> Any:
        return trainer.fit_loop.epoch_loop

    def _align(self, trainer: Trainer, kept: dict[str, Any]) -> None:
        """Put right what Lightning restores as if the checkpoint had been written within a batch."""
        states = kept["random_state"]
        random_state.restore(states[trainer.global_rank % len(states)])
        if kept["batches_that_stepped"] is None:
            return
        loop = self._stepped(trainer)
        loop._batches_that_stepped = kept["batches_that_stepped"]
        loop.batch_progress.total.ready = loop.batch_progress.total.completed + 1

    @staticmethod
    def _logged(trainer: Trainer) -> dict[str, Any]:
        """How far each of the run's logs has come."""
        logs: dict[str, Any] = {}
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logs["metrics"] = logger.state_dict()
            elif isinstance(logger, TensorBoardLogger):
                logs["tensorboard"] = tensorboard_series.position(logger)
        return logs

    @staticmethod
    def _rewind(trainer: Trainer, kept: dict[str, Any]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV) and "metrics" in kept:
                logger.load_state_dict(kept["metrics"])
            elif isinstance(logger, TensorBoardLogger) and "tensorboard" in kept:
                tensorboard_series.rewind(logger, kept["tensorboard"])
