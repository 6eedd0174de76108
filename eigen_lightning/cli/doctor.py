"""``eigen-lightning doctor``: what would stop a run, and what it will take, before it is started."""

import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import eigen_lightning.api.doctor

STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "not reached": "dim"}


def doctor(args: Sequence[str], mendable: Callable[[BaseException], str | None]) -> None:
    """Print each check with its remedy; exit code 1 where one failed.

    Args:
        args: as of ``fit``.
        mendable: what a person could mend in an error; None where there is nothing.
    """
    checks = eigen_lightning.api.doctor.doctor(args, mendable)
    table = Table("", "check", "what was found, and what to do")
    for check in checks:
        table.add_row(f"[{STYLES[check.status]}]{check.status}[/]", check.name, escape(check.message))
    Console().print(table)
    if any(check.status == "failed" for check in checks):
        sys.exit(1)
