"""Shipped configurations by name, and what the command says when it is called alone."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eigen_lightning.api.configuration import shipped_folder
from eigen_lightning.run.errors import UserError, nearest

FIRST_COMMANDS = {
    "demo": "train XOR and TMS networks and decompose both: minutes, offline",
    "fit --config tms": "learn the directions of a network; every key can be given on the command line",
    "doctor --config tms": "what would stop that run, and what it will take, before it is started",
    "configs": "the shipped configurations",
    "report RUN_DIR": "write a run's page again; open RUN_DIR/report.html",
    "study --config tms --seeds 5": "how often, and how exactly, features are recovered",
    "benchmark --seeds 1": "every system with a known answer, on one page",
}


def named(args: Sequence[str]) -> list[str]:
    """Arguments in which ``--config NAME`` of a shipped configuration is its path; a file of that name comes first.

    Raises:
        UserError: for a bare name that is neither a file nor shipped.
    """
    resolved, after = [], False
    for arg in args:
        option, equals, value = arg.partition("=")
        if after:
            resolved.append(_path(arg))
        elif option in ("--config", "--config+") and equals:
            resolved.append(f"{option}={_path(value)}")
        else:
            resolved.append(arg)
        after = arg in ("--config", "--config+")
    return resolved


def _path(name: str) -> str:
    if not name.replace("_", "").isalnum() or Path(name).exists():
        return name
    shipped = {path.stem: path for path in shipped_folder().glob("*.yaml")}
    if name not in shipped:
        hint = nearest(name, shipped) or f"; shipped are {', '.join(sorted(shipped))}"
        raise UserError(f"expected a configuration file or the name of a shipped one, got {name!r}{hint}")
    return str(shipped[name])


def configs() -> None:
    """List the shipped configurations, each with its first line."""
    table = Table("name", "what it decomposes", title=f"--config NAME, from {shipped_folder()}")
    for path in sorted(shipped_folder().glob("*.yaml")):
        table.add_row(path.stem, path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
    Console().print(table)


def welcome() -> None:
    """What a person needs first."""
    table = Table("eigen-lightning ...", "", title=f"eigen_lightning {version('eigen-lightning')}")
    for command, what in FIRST_COMMANDS.items():
        table.add_row(command, what)
    console = Console()
    console.print(table)
    console.print("All commands: eigen-lightning --help. Start with `eigen-lightning demo`.")
