"""The table of known circuits: every system with a known answer, run by ``study`` and scored beside its controls."""

from collections.abc import Sequence
from pathlib import Path

from eigen_lightning.api.benchmark_results import BenchmarkResults, SystemResult
from eigen_lightning.api.configuration import shipped_folder
from eigen_lightning.api.known_systems import SYSTEMS, System
from eigen_lightning.api.study import study
from eigen_lightning.report.benchmark import markdown, write_page
from eigen_lightning.run.errors import UserError, nearest
from eigen_lightning.run.folder import write_atomically


def benchmark(
    systems: Sequence[str] = (),
    seeds: int = 20,
    first_seed: int = 0,
    jobs: int = 1,
    run_dir: str = "runs/benchmark",
    overrides: Sequence[str] = (),
) -> BenchmarkResults:
    """Decompose every system with a known answer for many seeds, and write one page with what was found.

    Each seed trains a new network. Called again, or with more seeds or systems, only what is missing is run.

    Args:
        systems: names of the systems to run; all of them where empty.
        seeds: how many networks of each.
        first_seed: the first of their seeds.
        jobs: runs at a time, each in one thread.
        run_dir: where each system's study, benchmark.json, benchmark.md and benchmark.html go.
        overrides: further arguments of every fit, such as ["--trainer.max_epochs=1"].

    Raises:
        UserError: where a system is not known, or a number is out of range.
    """
    chosen = [_system(name) for name in systems] or list(SYSTEMS.values())
    folder, shipped = Path(run_dir), shipped_folder()
    results = []
    for system in chosen:
        if system.network_of:
            _share_targets(folder / system.network_of, folder / system.name)
        runs = study(
            [str(shipped / f"{name}.yaml") for name in system.configs],
            seeds=seeds,
            first_seed=first_seed,
            jobs=jobs,
            run_dir=str(folder / system.name),
            overrides=[*system.overrides, *overrides],
        )
        results.append(SystemResult.of(system, runs.rows))
        # After each, so that a benchmark that is cut off has a page of what it did.
        benchmarked = BenchmarkResults(str(folder), first_seed, seeds, tuple(results))
        content = benchmarked.to_json()
        write_atomically(folder / "benchmark.json", content.encode())
        write_atomically(folder / "benchmark.md", markdown(content).encode())
        write_page(content, folder / "benchmark.html")
    return benchmarked


def _share_targets(of: Path, to: Path) -> None:
    """Put the trained networks of one study where another looks for its own, unless it has them."""
    for path in sorted((of / "targets").rglob("*.safetensors")):
        shared = to / path.relative_to(of)
        if not shared.exists():
            write_atomically(shared, path.read_bytes())


def _system(name: str) -> System:
    if name not in SYSTEMS:
        raise UserError(f"expected a system of {', '.join(SYSTEMS)}, got {name!r}{nearest(name, SYSTEMS) or ''}")
    return SYSTEMS[name]
