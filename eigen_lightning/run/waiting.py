"""A progress bar for work that may take long or no time at all."""

import sys

from tqdm import tqdm

from eigen_lightning.run.console import is_quiet

PATIENCE = 2.0
"""Seconds without a bar: shorter work needs none."""


class Waiting(tqdm):
    """Shows how far a piece of work is, once it has taken longer than ``PATIENCE``: on a terminal, on one rank only.

    Args:
        description: what is waited for.
        total: how much work there is; None where nobody knows.
    """

    # The thread that would watch for bars that stall serves none that are updated by hand.
    monitor_interval = 0

    def __init__(self, description: str, total: int | None) -> None:
        # Not above: it would load Lightning, which looking at a finished run does without.
        from eigen_lightning.run.ranks import this_rank

        # Closed, a process has no stderr at all.
        terminal = sys.stderr is not None and sys.stderr.isatty()
        unwanted = not terminal or this_rank() != 0 or is_quiet()
        super().__init__(desc=description, total=total, delay=PATIENCE, leave=False, disable=unwanted)

    def reach(self, completed: int) -> None:
        """Say how much of the work is done."""
        self.update(completed - self.n)
