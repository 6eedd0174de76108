"""The command line: LightningCLI's fit, validate, test and predict, and the package's own commands."""

import importlib
import inspect
import itertools
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import eigen_lightning.data
import eigen_lightning.targets
from eigen_lightning.api.fit import TRAINER_DEFAULTS, loggers_of, with_finishing_callbacks
from eigen_lightning.cli import configuration
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.learning.callbacks import PredictionWriter
from eigen_lightning.run.checkpoint_io import AtomicCheckpointIO, last_good
from eigen_lightning.run.console import set_up_console
from eigen_lightning.run.errors import UserError, causes, disk_error
from eigen_lightning.run.folder import RunFolder, write_atomically
from eigen_lightning.run.lock import RunLock
from eigen_lightning.run.output import tolerant_output
from eigen_lightning.run.ranks import check_scheduler, settle_rank, this_rank

log = logging.getLogger(__name__)

COMMANDS = {
    "demo": "eigen_lightning.cli.demo",
    "intervene": "eigen_lightning.cli.intervene",
    "report": "eigen_lightning.cli.report",
    "compare": "eigen_lightning.cli.compare",
    "study": "eigen_lightning.cli.study",
}
"""The package's own commands: each a module whose function of the same name is the command."""


SWITCHES = ("--quiet", "--overwrite", "--report", "--matched")
"""Arguments that mean yes when they stand alone."""


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, with near names for an unknown one, and exits with code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(_plain(_one_line(message))) from ex


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
    with tolerant_output():
        set_up_console(debug, quiet="--quiet=true" in _switches(args))
        try:
            run(args)
        except Exception as error:
            message = mendable(error)
            if debug or message is None:
                raise
            where = f" (rank {this_rank()})" if this_rank() else ""
            sys.stderr.write(f"eigen-lightning: error{where}: {_one_line(message)}\n")
            sys.exit(2)


def told(error: OSError) -> str:
    """A disk's error in words."""
    return f"expected to read and write {error.filename or 'the results'}, got: {error.strerror}"


def mendable(error: BaseException | None) -> str | None:
    """The message of what a person can mend in an error or in what led to it; None where there is nothing."""
    for each in causes(error):
        if isinstance(each, UserError):
            return str(each)
        if isinstance(each, MisconfigurationException):
            return f"expected a configuration that Lightning takes, got: {each}"
    failed = None if error is None else disk_error(error)
    return None if failed is None else told(failed)


def stored(text: str) -> str:
    """A configuration as a run folder keeps it."""
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    content = yaml.safe_load(text)
    for part in ("model", "data"):
        content[part] = configuration.with_absolute_paths(content[part])
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def run(args: Sequence[str]) -> None:
    """Parse and run a command line.

    Raises:
        UserError: for wrong input.
    """
    args = _switches(args)
    if args and args[0] in COMMANDS:
        name = args[0]
        function = getattr(importlib.import_module(COMMANDS[name]), name.replace("-", "_"))
        parser = CommandParser(prog=f"eigen-lightning {name}", description=function.__doc__.splitlines()[0])
        parser.add_function_arguments(function)
        function(**parser.instantiate_classes(parser.parse_args(_named(function, args[1:]))).as_dict())
        return
    EigenLightningCLI(
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


def _switches(args: Sequence[str]) -> list[str]:
    """Yes-or-no arguments of ours may stand without their value, which joins them otherwise."""
    joined: list[str] = []
    for arg in args:
        if joined and joined[-1] in SWITCHES and arg.lower() in ("true", "false"):
            joined[-1] += f"={arg.lower()}"
        else:
            joined.append(arg)
    return [f"{arg}=true" if arg in SWITCHES else arg for arg in joined]


def _named(function: Callable[..., Any], args: Sequence[str]) -> list[str]:
    """What a command requires may be given by place: ``report DIR`` for ``report --run_dir DIR``; and what takes
    several may be given again: a second ``--config`` adds to the first, as for ``fit``."""
    kinds = inspect.signature(function).parameters
    required = [name for name, kind in kinds.items() if kind.default is kind.empty and kind.kind != kind.VAR_KEYWORD]
    placed = list(itertools.takewhile(lambda arg: not arg.startswith("-"), args))[: len(required)]
    named = [f"--{name}={value}" for name, value in zip(required, placed, strict=False)] + [*args[len(placed) :]]
    for option in [f"--{name}" for name, kind in kinds.items() if "Sequence" in str(kind.annotation)]:
        given = [at for at, arg in enumerate(named) if arg.partition("=")[0] == option]
        for at in given[1:]:
            named[at] = named[at].replace(option, f"{option}+", 1)
    return named


def _plain(message: str) -> str:
    """A parser's message without what says nothing: that a value is not None, and of which types a Union is."""
    union = r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: - (?=[A-Z])"
    message = re.sub(union, "", message)
    return re.sub(r" - Expected a <class 'NoneType'>| Given value type: <class '[\w.]+'>", "", message)


def _one_line(message: str) -> str:
    return re.sub(r"\s*\n\s*", " ", message.strip())
