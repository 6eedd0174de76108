"""``eigen-lightning benchmark``: the table of known circuits."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

import eigen_lightning.api.benchmark


def benchmark(systems: Sequence[str] = (), **options: Any) -> None:
    """Decompose every system with a known answer for many seeds, and write one page with what was found.

    Args:
        systems: names of the systems to run; all of them where none is given.
        options: see :func:`eigen_lightning.api.benchmark.benchmark`.
    """
    results = eigen_lightning.api.benchmark.benchmark(systems, **options)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)
    console.print(results.table())
    console.print(f"Open [bold]{results.run_dir}/benchmark.html[/bold]", soft_wrap=True)
