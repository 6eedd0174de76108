"""``eigen-lightning report``: report.html from a run folder alone."""

from rich.console import Console

from eigen_lightning.report import write_report
from eigen_lightning.run.folder import RunFolder


def report(run_dir: str, quiet: bool = False) -> None:
    """Write report.html from what a run folder holds.

    Args:
        run_dir: the run's folder.
        quiet: print nothing.

    Raises:
        UserError: where the folder holds no results.
    """
    path = write_report(RunFolder(run_dir))
    if not quiet:
        Console().print(f"Report: {path.resolve()}", soft_wrap=True)
