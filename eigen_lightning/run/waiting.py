"""A progress bar for work that may take long or no time at all."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eigen_lightning.run.console import is_quiet

PATIENCE = 2.0
"""Seconds without a bar: shorter work needs none."""


class Waiting:
    """Shows how far a piece of work is, once it has taken longer than ``PATIENCE``: on a terminal, on one rank only.

    Args:
        description: what is waited for.
        total: how much work there is; None where nobody knows.
    """

    def __init__(self, description: str, total: int | None) -> None:
        # Not above: it would load Lightning, which looking at a finished run does without.
        from eigen_lightning.run.ranks import this_rank

        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=this_rank() != 0 or not console.is_terminal or is_quiet(),
        )
        self._task = self._progress.add_task(description, total=total)
        self._begun = time.monotonic()
        self.shown = False

    def __enter__(self) -> "Waiting":
        return self

    def reach(self, completed: int) -> None:
        """Say how much of the work is done."""
        if not self.shown and time.monotonic() - self._begun > PATIENCE:
            self.shown = True
            self._progress.start()
        self._progress.update(self._task, completed=completed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.shown:
            self._progress.stop()
