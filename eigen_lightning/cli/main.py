"""The command line: LightningCLI's fit, validate, test and predict, and the package's own commands."""

import errno
import importlib
import inspect
import itertools
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.learning.callbacks import PredictionWriter
from eigen_lightning.run.checkpoint_io import AtomicCheckpointIO
from eigen_lightning.run.console import set_up_console
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.lock import RunLock
from eigen_lightning.run.ranks import this_rank

log = logging.getLogger(__name__)

COMMANDS = {
    "demo": "eigen_lightning.cli.demo",
    "intervene": "eigen_lightning.cli.intervene",
    "report": "eigen_lightning.cli.report",
    "compare": "eigen_lightning.cli.compare",
    "stability": "eigen_lightning.cli.stability",
    "sweep-density": "eigen_lightning.cli.sweep_density",
    "sweep-lambda": "eigen_lightning.cli.sweep_lambda",
}
"""The package's own commands: each a module whose function of the same name is the command."""


SWITCHES = ("--quiet", "--overwrite", "--report", "--matched")
"""Arguments that mean yes when they stand alone."""

PRECISIONS = ("32-true", "32", "bf16-mixed")
"""Accepted; everything computed here is in float32 in all of them, see ``decomposition.module.in_float32``."""


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, with near names for an unknown one, and exits with code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(_one_line(message)) from ex


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration to the run folder's config.yaml when a fit starts."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: a run that does not come to train leaves the configuration that is there."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
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
        parser.add_argument("--report", type=bool, default=True, help="end with causal checks and report.html")
        parser.add_argument("--quiet", type=bool, default=False, help="no progress bars and no tables")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        for file in _configurations(args or []):
            _check_configuration(Path(file))
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Checkpoints of this package hold no hyper-parameters that would change the configuration."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.run_dir is None:
            files = config.get("config") or []
            config.run_dir = str(Path("runs") / (Path(str(files[-1])).stem if files else "run"))
        self.run_folder = RunFolder(config.run_dir)
        self.lock = RunLock(self.run_folder.path)
        if self.run_folder.path.exists() and this_rank() == 0:
            self.lock.acquire()
            self.run_folder.recover()
        with self._released_on_error():
            self._choose_checkpoint(config)
        if self.subcommand == "predict" and config.get("return_predictions") is None:
            config.return_predictions = False

    def instantiate_classes(self) -> None:
        with self._released_on_error():
            super().instantiate_classes()

    @contextmanager
    def _released_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.lock.release()
            raise

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
        check_trainer_options(config)
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
        fresh = subcommand == "fit" and self.config[subcommand].get("ckpt_path") is None
        try:
            with self.run_folder.replaced() if fresh else self.run_folder.kept():
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


def mendable(error: BaseException | None) -> str | None:
    """The message of what a person can mend in an error or in what led to it; None where there is nothing."""
    while error is not None:
        if isinstance(error, UserError):
            return str(error)
        if isinstance(error, MisconfigurationException):
            return f"expected a configuration that Lightning takes, got: {error}"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            return (
                f"expected to write {error.filename or 'the results'}, got: {error.strerror}; the last checkpoint is "
                "intact: make room, then go on with --ckpt_path last"
            )
        error = error.__cause__ or error.__context__
    return None


def check_trainer_options(config: Any) -> None:
    """Refuse options of the Trainer that would be ignored, or break, under the two stages of a batch.

    Raises:
        UserError: naming the option.
    """
    if config.gradient_clip_val:
        raise UserError(
            f"expected no trainer.gradient_clip_val, got {config.gradient_clip_val}: the two stages step by manual "
            "optimization, which Lightning does not clip; leave it out (PolarAscent has no step size to tame)"
        )
    if config.accumulate_grad_batches != 1:
        raise UserError(
            f"expected no trainer.accumulate_grad_batches, got {config.accumulate_grad_batches}: the two stages step "
            "by manual optimization; leave it out and raise data.batch_size (model.rows bounds the memory)"
        )
    if config.precision is not None and str(config.precision) not in PRECISIONS:
        raise UserError(
            f"expected trainer.precision to be one of {', '.join(PRECISIONS)}, got {config.precision}: losses grow "
            "with the fourth power of the outputs, which overflows in half precision; use 32-true"
        )


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


def _configurations(args: Sequence[str]) -> Iterator[str]:
    for at, arg in enumerate(args):
        if arg in ("--config", "-c") and at + 1 < len(args):
            yield args[at + 1]
        elif arg.startswith("--config="):
            yield arg.removeprefix("--config=")


def _check_configuration(path: Path) -> None:
    """Parsers say neither which file is wrong nor, in all cases, that it is the file."""
    if not path.exists():
        return
    try:
        yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"expected YAML in {path}, got what is none ({error}); mend the file") from error


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
    """What a command requires may be given by place: ``report DIR`` for ``report --run_dir DIR``."""
    required = [name for name, kind in inspect.signature(function).parameters.items() if kind.default is kind.empty]
    placed = list(itertools.takewhile(lambda arg: not arg.startswith("-"), args))[: len(required)]
    named = [f"--{name}={value}" for name, value in zip(required, placed, strict=False)]
    return [*named, *args[len(placed) :]]


def _one_line(message: str) -> str:
    return re.sub(r"\s*\n\s*", " ", message.strip())
