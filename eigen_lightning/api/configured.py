"""A run as a configuration describes it: LightningCLI with a run folder, for the command line and for studies."""

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import eigen_lightning.data
import eigen_lightning.targets
from eigen_lightning.api import configuration
from eigen_lightning.api.fit import TRAINER_DEFAULTS, loggers_of, with_finishing_callbacks
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.learning.callbacks import PredictionWriter
from eigen_lightning.run.checkpoint_io import AtomicCheckpointIO, last_good
from eigen_lightning.run.errors import UserError, disk_error
from eigen_lightning.run.folder import RunFolder, write_atomically
from eigen_lightning.run.lock import RunLock
from eigen_lightning.run.ranks import check_scheduler, settle_rank, this_rank

log = logging.getLogger(__name__)


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, with near names for an unknown one, and exits with code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(_plain(one_line(message))) from ex


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration to the run folder's config.yaml when a fit starts."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: a run that does not come to train leaves the configuration that is there."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        run = RunFolder(trainer.default_root_dir)
        run.path.mkdir(parents=True, exist_ok=True)
        # `fit --config config.yaml` repeats the run from its beginning, from anywhere, into a folder of its own.
        config = self.config.clone()
        config.run_dir, config.ckpt_path, config.overwrite = None, None, False
        text = self.parser.dump(config, skip_none=False)
        write_atomically(run.config, stored(text).encode())


class EigenLightningCLI(LightningCLI):
    """LightningCLI with a run folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str | None, default=None, help="the run's folder; runs/<config name>")
        parser.add_argument("--overwrite", type=bool, default=False, help="replace the results that run_dir holds")
        parser.add_argument("--report", type=bool, default=True, help="end with causal checks and report.html")
        parser.add_argument("--quiet", type=bool, default=False, help="no progress bars and no tables")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        configuration.check(args or [])
        super().parse_arguments(parser, args)

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"expected a seed_everything that generators take, got: {error}") from error

    def _parse_ckpt_path(self) -> None:
        """Checkpoints of this package hold no hyper-parameters that would change the configuration."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        goes_on = config.get("ckpt_path") is not None or config.overwrite
        if config.run_dir is None:
            files = [str(file) for file in config.get("config") or []]
            config.run_dir = configuration.folder_of(str(self.subcommand), files, goes_on)
        self.run_folder = RunFolder(config.run_dir)
        self.lock = RunLock(self.run_folder.path)
        # Checkpoints of this package need no more, and of another's no more is let in.
        config.weights_only = True
        if self.subcommand == "predict" and config.get("return_predictions") is None:
            config.return_predictions = False

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        configuration.check_optimizers(self.model)
        settle_rank(self.trainer)
        if self.run_folder.path.exists() and this_rank() == 0:
            self.lock.acquire()
        try:
            if this_rank() == 0:
                self.run_folder.recover()
            self._choose_checkpoint(self.config_init[self.subcommand])
        except BaseException:
            self.lock.release()
            raise

    def _choose_checkpoint(self, config: Any) -> None:
        run, fitting = self.run_folder, self.subcommand == "fit"
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
        if checkpoint is not None and this_rank() == 0:
            AtomicCheckpointIO().load_checkpoint(checkpoint)
        begins_here = checkpoint is None or Path(checkpoint).resolve().parent != run.checkpoints.resolve()
        if fitting and begins_here and run.manifest.exists() and not config.overwrite and this_rank() == 0:
            raise UserError(
                f"expected an empty run folder, got {run.path}, which holds another run's results: "
                "resume it with --ckpt_path last, replace it with --overwrite true, or choose another --run_dir"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        run, quiet = self.run_folder, self._get(self.config_init, "quiet")
        if config.default_root_dir is None:
            kwargs["default_root_dir"] = str(run.path)
        if self.subcommand != "fit":
            # Looking again at a finished run adds nothing to its curves.
            kwargs["logger"] = False
        elif config.logger is None or config.logger is True:
            kwargs["logger"] = loggers_of(run)
        if config.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = not quiet and sys.stdout.isatty()
        kwargs["callbacks"] = with_finishing_callbacks(
            [*(config.callbacks or []), *([PredictionWriter()] if self.subcommand == "predict" else [])],
            checkpointing=config.enable_checkpointing is not False,
            report=self.subcommand == "fit" and self._get(self.config_init, "report"),
            quiet=quiet,
            progress_bar=kwargs.get("enable_progress_bar", config.enable_progress_bar),
        )
        configuration.check_trainer_options(config)
        check_scheduler()
        kwargs["plugins"] = [*(config.plugins or []), AtomicCheckpointIO()]
        try:
            return super().instantiate_trainer(**kwargs)
        # What Lightning raises for options that it does not know or that contradict each other.
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise UserError(f"expected options that the Trainer takes, got: {error}") from error

    def _run_subcommand(self, subcommand: str) -> None:
        if this_rank() != 0:
            super()._run_subcommand(subcommand)
            return
        self.lock.acquire()
        run = self.run_folder
        fresh = subcommand == "fit" and self.config_init[subcommand].get("ckpt_path") is None
        try:
            with run.replaced() if fresh else run.kept():
                super()._run_subcommand(subcommand)
        except Exception as error:
            failed = disk_error(error)
            if failed is None:
                raise
            good = last_good(run.checkpoints)
            mend = (
                f"mend that and go on from the last good checkpoint: --ckpt_path {good}" if good else "mend that first"
            )
            raise UserError(f"{told(failed)}; {mend}") from error
        finally:
            self.lock.release()


def run_configured(args: Sequence[str], cli: type[EigenLightningCLI] = EigenLightningCLI) -> None:
    """Run one of LightningCLI's commands: fit, validate, test or predict.

    Args:
        args: of the command line, the command first.
        cli: what runs them.

    Raises:
        UserError: for wrong input.
    """
    cli(
        SparseEigendecomposition,
        eigen_lightning.data.SampleStream,
        subclass_mode_data=True,
        save_config_callback=SaveConfig,
        parser_class=Parser,
        seed_everything_default=0,
        trainer_defaults=TRAINER_DEFAULTS,
        auto_configure_optimizers=False,
        args=list(args),
    )


def told(error: OSError) -> str:
    """A disk's error in words."""
    return f"expected to read and write {error.filename or 'the results'}, got: {error.strerror}"


def stored(text: str) -> str:
    """A configuration as a run folder keeps it."""
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    content = yaml.safe_load(text)
    for part in ("model", "data"):
        content[part] = configuration.with_absolute_paths(content[part])
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _plain(message: str) -> str:
    """A parser's message without what says nothing: that a value is not None, and of which types a Union is."""
    union = r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: - (?=[A-Z])"
    message = re.sub(union, "", message)
    return re.sub(r" - Expected a <class 'NoneType'>| Given value type: <class '[\w.]+'>", "", message)


def one_line(message: str) -> str:
    """A message without line ends."""
    return re.sub(r"\s*\n\s*", " ", message.strip())
