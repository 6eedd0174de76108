"""The command line: LightningCLI's fit, validate, test and predict, and the package's own commands."""

import importlib
import logging
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import eigen_lightning.data
import eigen_lightning.targets
from eigen_lightning.callbacks import PredictionWriter, RunCheckpoint, RunRecord, Summary
from eigen_lightning.checkpoint_io import AtomicCheckpointIO
from eigen_lightning.console import set_up_console
from eigen_lightning.decomposition import SparseEigendecomposition
from eigen_lightning.errors import UserError
from eigen_lightning.metrics_csv import MetricsCSV
from eigen_lightning.run_folder import RunFolder
from eigen_lightning.run_lock import RunLock

log = logging.getLogger(__name__)

COMMANDS = {
    "demo": "eigen_lightning.commands.demo",
    "stability": "eigen_lightning.commands.stability",
}
"""The package's own commands: each a module whose function of the same name is the command."""


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, with near names for an unknown one, and exits with code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(_one_line(message)) from ex


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration to the run folder's config.yaml when a fit starts."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        run = RunFolder(trainer.default_root_dir)
        run.path.mkdir(parents=True, exist_ok=True)
        # `fit --config config.yaml` repeats the run from its beginning.
        config = self.config.clone()
        config.ckpt_path, config.overwrite = None, False
        self.parser.save(config, run.config, skip_none=False, overwrite=True, multifile=False)


class EigenLightningCLI(LightningCLI):
    """LightningCLI with a run folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str | None, default=None, help="the run's folder; runs/<config name>")
        parser.add_argument("--overwrite", type=bool, default=False, help="replace the results that run_dir holds")
        parser.add_argument("--quiet", type=bool, default=False, help="no progress bars and no tables")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.run_dir is None:
            files = config.get("config") or []
            config.run_dir = str(Path("runs") / (Path(str(files[-1])).stem if files else "run"))
        self.run_folder = RunFolder(config.run_dir)
        self.lock = RunLock(self.run_folder.path)
        if self.run_folder.path.exists() and rank_zero_only.rank == 0:
            self.lock.acquire()
            self.run_folder.recover()
        self._choose_checkpoint(config)
        if self.subcommand == "predict" and config.get("return_predictions") is None:
            config.return_predictions = False

    def _choose_checkpoint(self, config: Any) -> None:
        run, fitting = self.run_folder, self.subcommand == "fit"
        # Checkpoints of this package need no more, and of another's no more is let in.
        config.weights_only = True
        if config.get("ckpt_path") == "last" or (not fitting and config.get("ckpt_path") is None):
            config.ckpt_path = str(run.last_checkpoint)
            if fitting and not run.last_checkpoint.exists():
                # A run that was stopped before its first checkpoint, or has yet to begin: so that a scheduler can
                # start it and start it again with one and the same command.
                log.info("no checkpoint in %s yet: starting from the beginning", run.checkpoints)
                config.ckpt_path, config.overwrite = None, True
        checkpoint = config.get("ckpt_path")
        if checkpoint is not None and not Path(checkpoint).is_file():
            raise UserError(f"expected a checkpoint to go on from, found none at {checkpoint}: run `fit` there first")
        begins_here = checkpoint is None or Path(checkpoint).resolve().parent != run.checkpoints.resolve()
        if fitting and begins_here and run.manifest.exists() and not config.overwrite and rank_zero_only.rank == 0:
            raise UserError(
                f"expected an empty run folder, got {run.path}, which holds another run's results: "
                "resume it with --ckpt_path last, replace it with --overwrite true, or choose another --run_dir"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        run, quiet = self.run_folder, self._get(self.config_init, "quiet")
        if config.default_root_dir is None:
            kwargs["default_root_dir"] = str(run.path)
        if config.logger is None or config.logger is True:
            board = TensorBoardLogger(run.path, name="", version=run.tensorboard.name)
            kwargs["logger"] = [board, MetricsCSV(run.metrics)]
        if config.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = not quiet and sys.stdout.isatty()
        callbacks = list(config.callbacks or [])
        checkpointing = config.enable_checkpointing is not False
        if checkpointing and not any(isinstance(callback, RunCheckpoint) for callback in callbacks):
            callbacks.append(RunCheckpoint())
        callbacks.append(RunRecord())
        if self.subcommand == "predict":
            callbacks.append(PredictionWriter())
        if not quiet:
            callbacks.append(Summary())
            if kwargs.get("enable_progress_bar", config.enable_progress_bar):
                callbacks.append(RichProgressBar(leave=False))
        kwargs["callbacks"] = callbacks
        kwargs["plugins"] = [*(config.plugins or []), AtomicCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        if rank_zero_only.rank != 0:
            super()._run_subcommand(subcommand)
            return
        self.lock.acquire()
        fresh = subcommand == "fit" and self.config[subcommand].get("ckpt_path") is None
        try:
            with self.run_folder.replaced() if fresh else nullcontext():
                super()._run_subcommand(subcommand)
        finally:
            self.lock.release()


class CommandParser(ArgumentParser):
    """As :class:`Parser`, for the package's own commands."""

    error = Parser.error


def main(args: Sequence[str] | None = None) -> None:
    """The ``eigen-lightning`` command.

    Wrong input ends in one line on stderr and exit code 2; ``--debug`` shows where it was found.
    """
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    set_up_console(debug)
    try:
        run(args)
    except UserError as error:
        if debug:
            raise
        sys.stderr.write(f"eigen-lightning: error: {_one_line(str(error))}\n")
        sys.exit(2)


def run(args: Sequence[str]) -> None:
    """Parse and run a command line.

    Raises:
        UserError: for wrong input.
    """
    if args and args[0] in COMMANDS:
        name = args[0]
        function = getattr(importlib.import_module(COMMANDS[name]), name.replace("-", "_"))
        parser = CommandParser(prog=f"eigen-lightning {name}", description=function.__doc__.splitlines()[0])
        parser.add_function_arguments(function)
        function(**parser.instantiate_classes(parser.parse_args(args[1:])).as_dict())
        return
    EigenLightningCLI(
        SparseEigendecomposition,
        eigen_lightning.data.SampleStream,
        subclass_mode_data=True,
        save_config_callback=SaveConfig,
        parser_class=Parser,
        seed_everything_default=0,
        trainer_defaults={
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 10,
            "enable_model_summary": False,
        },
        auto_configure_optimizers=False,
        args=list(args),
    )


def _one_line(message: str) -> str:
    return re.sub(r"\s*\n\s*", " ", message.strip())
