"""``eigen-lightning stability``: how often a configuration recovers the truth, over many seeds."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from eigen_lightning.analysis.recovery import assign
from eigen_lightning.cli.many_runs import Run, claim, run_all
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder, write_atomically

Criterion = Literal["matched", "leaders"]

# Far apart, so that another run of one target is never the first run of another.
SEEDS_APART = 100_000


def stability(
    config: str,
    seeds: int = 10,
    first_seed: int = 0,
    runs_per_target: int = 1,
    jobs: int = 1,
    run_dir: str | None = None,
    criterion: Criterion = "matched",
    targets_of: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Fit a configuration for many seeds and report how often, and how exactly, it recovers the known features.

    Each seed trains a new target, draws new samples and starts anew. Finished runs are kept: called again, or with
    more seeds, only what is missing is run.

    Args:
        config: the configuration to run; its callbacks must include Scorecard.
        seeds: how many seeds.
        first_seed: the first of them.
        runs_per_target: runs of each target, with samples and starts of their own, that are compared in pairs.
        jobs: runs at a time, each in one thread.
        run_dir: where the runs and stability.json go; runs/stability_<config name>.
        criterion: what a success is: "matched", every feature matched with |cos| above 0.9; "leaders", the directions'
            steepest held-out samples are different from each other and none of them is zero.
        targets_of: the folder of another stability, whose trained targets are taken seed by seed.
        overrides: further arguments of fit, such as "--model.stage2=null".

    Raises:
        UserError: where a number is out of range, or the folder holds runs of another configuration.
    """
    for name, value in (("seeds", seeds), ("runs_per_target", runs_per_target)):
        if value < 1:
            raise UserError(f"expected {name} of at least 1, got {value}")
    if not 0 <= first_seed < SEEDS_APART:
        raise UserError(f"expected a first_seed from 0 to {SEEDS_APART - 1}, got {first_seed}")
    if not Path(config).is_file():
        raise UserError(f"expected a configuration file, got {config}, which does not exist")
    folder = Path(run_dir or f"runs/stability_{Path(config).stem}")
    claim(folder, {"config": Path(config).read_text(encoding="utf-8"), "overrides": list(overrides)})
    runs = [
        (seed, number, _run(folder, config, seed, number, targets_of, overrides))
        for seed in range(first_seed, first_seed + seeds)
        for number in range(runs_per_target)
    ]
    run_all([run for _, _, run in runs], jobs, f"fitting {config}")
    rows = [{"seed": seed, "run": number, **judged(run, criterion)} for seed, number, run in runs]
    report = {
        "config": config,
        "overrides": list(overrides),
        "criterion": criterion,
        "summary": summarize(rows, pairwise([(seed, run) for seed, _, run in runs if run.finished])),
        "runs": rows,
    }
    write_atomically(folder / "stability.json", (json.dumps(report, indent=2) + "\n").encode())
    console = Console()
    console.print(table(report))
    console.print(f"Results: [bold]{folder / 'stability.json'}[/bold]", soft_wrap=True)


def _run(folder: Path, config: str, seed: int, number: int, targets_of: str | None, overrides: Sequence[str]) -> Run:
    def path(number: int, within: Path = folder) -> Path:
        return within / f"seed_{seed:04d}" / f"run_{number}"

    target_of = path(0) if number else None
    if targets_of is not None:
        target_of = path(0, Path(targets_of))
        if not RunFolder(target_of).target.exists():
            raise UserError(f"expected the trained target of seed {seed} in {target_of}, found none: run that first")
    arguments = ("--config", config, "--seed_everything", str(seed + number * SEEDS_APART), *overrides)
    return Run(path(number), arguments, target_of)


def judged(run: Run, criterion: Criterion) -> dict[str, Any]:
    """What one run found."""
    if not run.finished:
        return {"success": False, "failure": (run.failure or "not finished").strip()}
    results = RunFolder(run.folder)
    card = json.loads(results.scorecard.read_text(encoding="utf-8"))
    manifest = json.loads(results.manifest.read_text(encoding="utf-8"))
    if "features" not in card:
        raise UserError(f"expected a target whose features are known, got {manifest['target']}: its truth is not known")
    columns = [column for column in ("learned", "random", "pca", "oracle") if column in card]
    return {
        "success": succeeded(card, results, criterion),
        "features": card["features"],
        **{column: card[column] for column in columns},
        "seconds": manifest["seconds"],
        "target_fingerprint": manifest["target_fingerprint"],
    }


def succeeded(card: dict[str, Any], results: RunFolder, criterion: Criterion) -> bool:
    """Whether a run recovered the truth."""
    if criterion == "matched":
        return card["learned"]["matched"] == card["features"]
    leaders = [tuple(line["examples"][0]["input"]) for line in results.read_top_examples()]
    return len(set(leaders)) == len(leaders) and all(any(leader) for leader in leaders)


def pairwise(runs: Sequence[tuple[int, Run]]) -> list[float]:
    """mcc between the directions of each two runs of one target."""
    values = []
    for _, of_target in itertools.groupby(runs, key=lambda item: item[0]):
        found = [RunFolder(run.folder).read_directions()[0] for _, run in of_target]
        values += [float(assign(a, b)[1].mean()) for a, b in itertools.combinations(found, 2)]
    return values


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation and quartiles."""
    quartiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {
        "mean": float(np.mean(values)),
        "std": spread,
        **dict(zip(("min", "lower_quartile", "median", "upper_quartile", "max"), quartiles, strict=True)),
    }


def summarize(rows: Sequence[dict[str, Any]], pairs: Sequence[float]) -> dict[str, Any]:
    """Success rate with its 95 % Wilson interval, and distributions over the runs that finished."""
    successes = sum(row["success"] for row in rows)
    interval = binomtest(successes, len(rows)).proportion_ci(0.95, method="wilson")
    summary: dict[str, Any] = {
        "runs": len(rows),
        "successes": successes,
        "rate": successes / len(rows),
        "wilson_95": [float(interval.low), float(interval.high)],
        "failures": sum("failure" in row for row in rows),
    }
    finished = [row for row in rows if "failure" not in row]
    if finished:
        for column in ("learned", "random", "pca", "oracle"):
            figures = [name for name in finished[0][column] if name not in ("dead", "duplicates")]
            summary[column] = {name: distribution([row[column][name] for row in finished]) for name in figures}
        summary["selectivity_of_oracle"] = distribution(
            [row["learned"]["selectivity"] / row["oracle"]["selectivity"] for row in finished]
        )
        summary["seconds"] = distribution([row["seconds"] for row in finished])
    if pairs:
        summary["pairwise_mcc"] = distribution(pairs)
    return summary


def table(report: dict[str, Any]) -> Table:
    """The summary as a table, controls beside the learned directions."""
    summary = report["summary"]
    low, high = summary["wilson_95"]
    rate = f"{summary['successes']} of {summary['runs']} (95 % interval {low:.2f} to {high:.2f})"
    made = Table("", "learned", "random", "PCA", "oracle", title=f"{report['config']}: success in {rate}")
    if "learned" not in summary:
        return made
    for name in ("mcc", "matched", "selectivity", "uniqueness", "steepness"):
        cells = []
        for column in ("learned", "random", "pca", "oracle"):
            figure = summary[column][name]
            cells.append(f"{figure['mean']:.3f} ({figure['min']:.3f} to {figure['max']:.3f})")
        made.add_row(name, *cells)
    for name, label in (
        ("selectivity_of_oracle", "selectivity / oracle's"),
        ("pairwise_mcc", "mcc between runs of a target"),
        ("seconds", "seconds a decomposition"),
    ):
        if name in summary:
            figure = summary[name]
            made.add_row(label, f"{figure['mean']:.3f} ({figure['min']:.3f} to {figure['max']:.3f})")
    made.caption = "mean (least to largest) over runs"
    return made
