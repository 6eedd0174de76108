"""Configurations before they are parsed and as they are stored: files that can be read, modules that can be imported,
folders to write to, options of the Trainer that would be ignored."""

import importlib
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import torch
import yaml

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder

PRECISIONS = ("32-true", "32", "bf16-mixed")
"""Accepted; everything computed here is in float32 in all of them, see ``learning.precision.in_float32``."""

CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\.[A-Z]\w*")
"""A class by its module, ``package.module.Class``."""

PATHS = re.compile(r"(.*_)?(source|heldout|tokenizer|name|path|file|folder|dir)")
"""Names of arguments that may hold a path, also where it is a single word."""


def check(args: Sequence[str]) -> None:
    """Read the configuration files that a command line names, and import the modules of the classes that they and the
    command line name.

    Parsers say neither which file is wrong nor, in all cases, that it is the file; of a module that fails while it is
    imported they say that its class is of no type expected.

    Raises:
        UserError: for a file that is no YAML, or a module that cannot be imported, with its own error.
    """
    named = [value for arg in args for value in (arg, arg.partition("=")[2]) if CLASS.fullmatch(value)]
    for file in map(Path, files_of(args)):
        if file.is_file():
            named += _classes(_read(file))
    for name in named:
        _check_import(name)


def files_of(args: Sequence[str]) -> Iterator[str]:
    """The configuration files that a command line names."""
    for at, arg in enumerate(args):
        if arg in ("--config", "-c") and at + 1 < len(args):
            yield args[at + 1]
        elif arg.startswith("--config="):
            yield arg.removeprefix("--config=")


def _read(path: Path) -> Any:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"expected YAML in {path}, got what is none ({error}); mend the file") from error
    except OSError as error:
        raise UserError(f"expected a configuration in {path}, got: {error.strerror}") from error
    if not isinstance(content, dict):
        raise UserError(f"expected settings by name in {path}, got {type(content).__name__}; see configs/ for examples")
    for part in ("model", "trainer"):
        # Parsers pass over what is none.
        if not isinstance(content.get(part), dict | NoneType):
            raise UserError(f"expected settings by name in {part} of {path}, got {content[part]!r}")
    return content


def _classes(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        content = content.values()
    elif isinstance(content, str):
        if CLASS.fullmatch(content):
            yield content
        return
    elif not isinstance(content, list):
        return
    for item in content:
        yield from _classes(item)


def _check_import(name: str) -> None:
    module = name.rpartition(".")[0]
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            # There is none of that name: parsers say so, and what is near.
            return
        raise UserError(_told(name, error)) from error
    # A module of one's own may raise anything while it is imported.
    except Exception as error:
        raise UserError(_told(name, error)) from error


def _told(name: str, error: Exception) -> str:
    trace, where = error.__traceback__, ""
    while trace is not None:
        where = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        where = ""
    return f"expected {name} to be imported, got {type(error).__name__}: {error}{where}"


def folder_of(subcommand: str, files: Sequence[str], goes_on: bool) -> str:
    """The run folder where none is named.

    It is named after the configuration. A run's own ``config.yaml`` means that run, to go on with or to look at it
    again; to fit it anew means to repeat it, in a folder of its own.

    Args:
        subcommand: ``fit`` or another.
        files: the configuration files.
        goes_on: whether a fit goes on from a checkpoint or is to replace what there is.
    """
    if not files:
        return str(Path("runs", "run"))
    file = Path(files[-1])
    run = RunFolder(file.parent)
    if file.name != run.config.name or not run.manifest.exists():
        return str(Path("runs", file.stem))
    if subcommand != "fit" or goes_on:
        return str(run.path)
    name = re.sub(r"_again(_\d+)?$", "", run.path.resolve().name) + "_again"
    # A folder without results is as good: processes that start one after the other must all choose the same.
    fresh, number = RunFolder(Path("runs", name)), 2
    while fresh.manifest.exists():
        fresh, number = RunFolder(Path("runs", f"{name}_{number}")), number + 1
    return str(fresh.path)


def with_absolute_paths(settings: Any) -> Any:
    """Settings of a model or of samples, with paths that are relative and there made absolute: they hold elsewhere."""
    if isinstance(settings, list):
        return [with_absolute_paths(item) for item in settings]
    if not isinstance(settings, dict):
        return settings
    return {name: _absolute(name, with_absolute_paths(value)) for name, value in settings.items()}


def _absolute(name: str, value: Any) -> Any:
    if not isinstance(value, str) or not value or "\0" in value or name == "class_path":
        return value
    meant = "/" in value or Path(value).suffix or PATHS.fullmatch(name)
    path = Path(value)
    return str(path.absolute()) if meant and not path.is_absolute() and len(value) < 256 and path.exists() else value


def check_optimizers(model: Any) -> None:
    """Make each of a module's optimizers once, before anything is trained or prepared.

    Raises:
        UserError: where one does not take its settings.
    """
    for stage in ("stage1", "stage2"):
        make = getattr(model, f"make_{stage}", None)
        if make is None:
            continue
        try:
            make([torch.nn.Parameter(torch.eye(2))])
        except (ValueError, TypeError) as error:
            raise UserError(f"expected settings that model.{stage} takes, got: {error}") from error


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


CHECKOUT = Path(__file__).parents[2] / "configs"


def shipped_folder() -> Path:
    """Where the shipped configurations lie: beside the package in a checkout, else where the wheel put them."""
    installed = Path(sysconfig.get_path("data")) / "share" / "eigen_lightning" / "configs"
    return CHECKOUT if (CHECKOUT / "tms.yaml").is_file() else installed
