"""Many runs of ``fit``, side by side, each finished one kept: what commands that compare runs stand on."""

import json
import multiprocessing
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder

IDENTITY = "runs.json"
"""What the runs of a folder are, so that others are not mixed with them."""


@dataclass(frozen=True)
class Run:
    """One run of ``fit``.

    Attributes:
        folder: its run folder.
        arguments: of ``fit``, the run folder aside.
        target_of: a run folder whose trained target it takes instead of training one; null trains.
    """

    folder: Path
    arguments: tuple[str, ...]
    target_of: Path | None = None

    @property
    def finished(self) -> bool:
        """Whether it is done and judged."""
        results = RunFolder(self.folder)
        if not (results.manifest.exists() and results.scorecard.exists()):
            return False
        return json.loads(results.manifest.read_text(encoding="utf-8"))["status"] == "complete"

    @property
    def failure(self) -> str | None:
        """Why it cannot be done, where it was tried; null otherwise."""
        path = self.folder / "failure.txt"
        return path.read_text(encoding="utf-8") if path.exists() else None


def claim(folder: Path, identity: dict[str, Any]) -> None:
    """Say what the runs in a folder are.

    Raises:
        UserError: where the folder holds others.
    """
    path = folder / IDENTITY
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != identity:
            other = [name for name in identity if found.get(name) != identity[name]]
            raise UserError(
                f"expected a folder for runs of this configuration, got {folder}, whose runs differ in "
                f"{', '.join(other)}: choose another --run_dir, or remove it"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")


def run_all(runs: Sequence[Run], jobs: int, description: str) -> None:
    """Do those runs that are not finished, ``jobs`` at a time, each in one thread; a run follows the one whose target
    it takes.

    Args:
        runs: what to run.
        jobs: processes.
        description: what the progress bar says.

    Raises:
        UserError: where ``jobs`` is below 1.
    """
    if jobs < 1:
        raise UserError(f"expected jobs of at least 1, got {jobs}")
    todo = [run for run in runs if not run.finished and run.failure is None]
    if not todo:
        return
    own = {run.folder for run in todo}
    waves = [[run for run in todo if run.target_of not in own], [run for run in todo if run.target_of in own]]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress,
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
    ):
        task = progress.add_task(description, total=len(runs), completed=len(runs) - len(todo))
        for wave in waves:
            for done in as_completed([pool.submit(run_one, run) for run in wave]):
                done.result()
                progress.advance(task)


def run_one(run: Run) -> None:
    """Do one run in this process; what a person could mend is kept as its failure, anything else is raised."""
    import torch

    from eigen_lightning.cli import main as cli
    from eigen_lightning.run.console import set_up_console

    set_up_console(debug=False)
    torch.set_num_threads(1)
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    results = RunFolder(run.folder)
    if run.target_of is not None:
        given = RunFolder(run.target_of).target
        if given.exists():
            shutil.copy(given, results.target)
    arguments = ["fit", *run.arguments, "--run_dir", str(run.folder), "--quiet", "true"]
    arguments += ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
    try:
        cli.run(arguments)
    except UserError as error:
        (run.folder / "failure.txt").write_text(f"{error}\n", encoding="utf-8")


def scorecards(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """The scorecards of finished runs, in their order."""
    return [json.loads(RunFolder(run.folder).scorecard.read_text(encoding="utf-8")) for run in runs if run.finished]
