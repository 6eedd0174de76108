"""The command line: LightningCLI's fit, validate, test and predict, and the package's own commands."""

import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console

from eigen_lightning.api.configured import Parser, one_line, run_configured, told
from eigen_lightning.cli import shipped
from eigen_lightning.run.console import set_up_console
from eigen_lightning.run.errors import UserError, causes, disk_error
from eigen_lightning.run.output import tolerant_output
from eigen_lightning.run.ranks import this_rank

COMMANDS = {
    "demo": "eigen_lightning.cli.demo",
    "intervene": "eigen_lightning.cli.intervene",
    "report": "eigen_lightning.cli.report",
    "compare": "eigen_lightning.cli.compare",
    "study": "eigen_lightning.cli.study",
    "benchmark": "eigen_lightning.cli.benchmark",
    "configs": "eigen_lightning.cli.shipped",
}
"""The package's own commands: each a module whose function of the same name is the command."""


SWITCHES = ("--quiet", "--overwrite", "--report", "--matched")
"""Arguments that mean yes when they stand alone."""


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
            sys.stderr.write(f"eigen-lightning: error{where}: {one_line(message)}\n")
            sys.exit(2)


def mendable(error: BaseException | None) -> str | None:
    """The message of what a person can mend in an error or in what led to it; None where there is nothing."""
    for each in causes(error):
        if isinstance(each, UserError):
            return str(each)
        if isinstance(each, MisconfigurationException):
            return f"expected a configuration that Lightning takes, got: {each}"
    failed = None if error is None else disk_error(error)
    return None if failed is None else told(failed)


def run(args: Sequence[str]) -> None:
    """Parse and run a command line.

    Raises:
        UserError: for wrong input.
    """
    args = shipped.named(_switches(args))
    if not args:
        shipped.welcome()
        return
    if list(args) == ["--version"]:
        Console().print(f"eigen-lightning {version('eigen-lightning')}", highlight=False)
        return
    if args[0] == "doctor":
        # Its arguments are those of `fit`.
        importlib.import_module("eigen_lightning.cli.doctor").doctor(args[1:], mendable)
        return
    if args[0] in COMMANDS:
        name = args[0]
        function = getattr(importlib.import_module(COMMANDS[name]), name.replace("-", "_"))
        parser = CommandParser(prog=f"eigen-lightning {name}", description=function.__doc__.splitlines()[0])
        parser.add_function_arguments(function)
        function(**parser.instantiate_classes(parser.parse_args(_named(function, args[1:]))).as_dict())
        return
    run_configured(args)


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
