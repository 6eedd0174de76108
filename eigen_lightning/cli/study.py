"""``eigen-lightning study``: many runs of one configuration, over seeds and settings."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

import eigen_lightning.api.study


def study(config: str | Sequence[str], **options: Any) -> None:
    """Fit a configuration for many seeds and settings, and say how often, and how exactly, it recovers the features.

    Args:
        config: a configuration, whose callbacks include Scorecard; given again, overlays.
        options: see :func:`eigen_lightning.api.study.study`.
    """
    made = eigen_lightning.api.study.study(config, **options)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)
    console.print(made.table())
    console.print(f"Results: [bold]{made.run_dir}[/bold]", soft_wrap=True)
