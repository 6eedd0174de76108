"""``eigen-lightning compare``: which directions two runs share."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from eigen_lightning.report import write_comparison
from eigen_lightning.run.folder import RunFolder


def compare(run_a: str, run_b: str, out: str | None = None, quiet: bool = False) -> None:
    """Match the directions of two runs, with what random ones would reach, and write a page.

    Args:
        run_a: a run's folder.
        run_b: another's, decomposing the same parameters.
        out: the page; compare_<name of B>.html in A's folder where None.
        quiet: print nothing.

    Raises:
        UserError: where a folder holds no directions, or the two lie in different spaces.
    """
    a, b = RunFolder(run_a), RunFolder(run_b)
    path = Path(out) if out is not None else a.path / f"compare_{b.path.resolve().name}.html"
    found = write_comparison(a, b, path)
    if quiet:
        return
    console = Console()
    table = Table("A", "B", title="Directions matched by |cos|")
    table.add_column("|cos|", justify="right")
    for pair in found.pairs:
        table.add_row(str(pair.a), str(pair.b), f"{pair.cosine:.3f}", style=None if pair.shared else "dim")
    console.print(table)
    console.print(
        f"{found.n_shared} of {len(found.pairs)} shared (|cos| above {found.threshold:.2f}; random directions reach "
        f"{found.floor:.2f} on average). Page: {path.resolve()}",
        soft_wrap=True,
    )
