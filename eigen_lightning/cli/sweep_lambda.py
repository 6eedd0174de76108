"""``eigen-lightning sweep-lambda``: recovery against the interference weight, for several recipes."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eigen_lightning.cli.many_runs import Run, claim, run_all, scorecards
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import write_atomically


def sweep_lambda(
    configs: Sequence[str],
    weights: Sequence[float] = (0.1, 0.3, 1, 3, 10, 30, 100),
    seeds: int = 3,
    jobs: int = 1,
    run_dir: str = "runs/sweep_lambda",
    figure: str = "mcc",
    overrides: Sequence[str] = (),
) -> None:
    """Fit configurations for several values of model.interference_weight and plot how well each recovers the truth.

    All runs of a seed share one target. Finished runs are kept. Writes sweep_lambda.json and sweep_lambda.png.

    Args:
        configs: the configurations to compare, such as tms.yaml and tms_as_published.yaml, of one target.
        weights: values of lambda.
        seeds: seeds, from 0 on, of each.
        jobs: runs at a time, each in one thread.
        run_dir: where runs and results go.
        figure: which figure of the scorecard is plotted.
        overrides: further arguments of fit.

    Raises:
        UserError: where a value is out of range.
    """
    for weight in weights:
        if not weight >= 0:
            raise UserError(f"expected weights of at least 0, got {weight}")
    settings = [(Path(config).stem, ("--config", config), weight) for config in configs for weight in weights]
    sweep(
        Path(run_dir),
        "sweep_lambda",
        "λ",
        [
            (label, weight, (*config, "--model.interference_weight", str(weight), *overrides))
            for label, config, weight in settings
        ],
        seeds,
        jobs,
        figure,
    )


def sweep(
    folder: Path,
    name: str,
    axis: str,
    settings: Sequence[tuple[str, float, tuple[str, ...]]],
    seeds: int,
    jobs: int,
    figure: str,
) -> None:
    """Run settings along an axis for several seeds on shared targets; write, print and plot a figure with its controls.

    Args:
        folder: where runs and results go.
        name: of the results' files.
        axis: what varies.
        settings: label of the curve, place on the axis, arguments of fit.
        seeds: how many, from 0 on.
        jobs: runs at a time.
        figure: which figure of the scorecard.

    Raises:
        UserError: where a value is out of range or the folder holds other runs.
    """
    if seeds < 1:
        raise UserError(f"expected seeds of at least 1, got {seeds}")
    if not settings:
        raise UserError("expected at least one configuration and one value, got none")
    configs = [path for *_, arguments in settings for flag, path in itertools.pairwise(arguments) if flag == "--config"]
    for path in configs:
        if not Path(path).is_file():
            raise UserError(f"expected a configuration file, got {path}, which does not exist")
    claim(folder, {"name": name, "configs": {path: Path(path).read_text(encoding="utf-8") for path in configs}})
    runs = {}
    for seed in range(seeds):
        first: Path | None = None
        for label, place, arguments in settings:
            run_dir = folder / label / f"{place:g}" / f"seed_{seed:04d}"
            arguments = (*arguments, "--seed_everything", str(seed))
            runs[label, place, seed] = Run(run_dir, arguments, target_of=first)
            first = first or run_dir
    run_all(list(runs.values()), jobs, name)
    points = []
    for label, place, _ in settings:
        of_point = [runs[label, place, seed] for seed in range(seeds)]
        cards = scorecards(of_point)
        failures = [run.failure for run in of_point if run.failure]
        point: dict[str, Any] = {"label": label, axis: place, "runs": len(cards), "failures": failures}
        for column in ("learned", "random", "pca", "oracle"):
            values = [card[column][figure] for card in cards if column in card and figure in card[column]]
            if values:
                point[column] = {"mean": sum(values) / len(values), "min": min(values), "max": max(values)}
        if cards and "features" in cards[0]:
            point["matched"] = sum(card["learned"]["matched"] == card["features"] for card in cards)
        points.append(point)
    if not any("learned" in point for point in points):
        raise UserError(
            f"expected a figure of the scorecard, got {figure!r}, which no run has: {points[0]['failures']}"
        )
    write_atomically(
        folder / f"{name}.json", (json.dumps({"figure": figure, "points": points}, indent=2) + "\n").encode()
    )
    plot(folder / f"{name}.png", axis, figure, points)
    console = Console()
    console.print(table(axis, figure, points))
    console.print(f"Results: [bold]{folder / name}.json[/bold] and .png", soft_wrap=True)


def table(axis: str, figure: str, points: Sequence[dict[str, Any]]) -> Table:
    """A row a point."""
    made = Table("", axis, "learned", "random", "PCA", "all matched", title=f"{figure} against {axis}")
    for point in points:
        cells = []
        for column in ("learned", "random", "pca"):
            value = point.get(column)
            cells.append("" if value is None else f"{value['mean']:.3f} ({value['min']:.3f} to {value['max']:.3f})")
        made.add_row(point["label"], f"{point[axis]:g}", *cells, f"{point.get('matched', '')} of {point['runs']}")
    made.caption = "mean (least to largest) over seeds"
    return made


def plot(path: Path, axis: str, figure: str, points: Sequence[dict[str, Any]]) -> None:
    """The curves with their spread, and the controls as floors.

    Raises:
        UserError: where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("expected matplotlib for the plot, found none: pip install eigen-lightning[plots]") from error
    made = Figure(figsize=(6, 3.6), layout="constrained")
    axes = made.subplots()
    for label in dict.fromkeys(point["label"] for point in points):
        curve = [point for point in points if point["label"] == label and "learned" in point]
        x = [point[axis] for point in curve]
        axes.plot(x, [point["learned"]["mean"] for point in curve], marker="o", label=label)
        axes.fill_between(
            x, [point["learned"]["min"] for point in curve], [point["learned"]["max"] for point in curve], alpha=0.2
        )
    first = [point for point in points if point["label"] == points[0]["label"] and "learned" in point]
    for column, style in (("pca", "--"), ("random", ":")):
        if all(column in point for point in first):
            axes.plot(
                [point[axis] for point in first],
                [point[column]["mean"] for point in first],
                style,
                color="gray",
                label="PCA" if column == "pca" else column,
            )
    axes.set(xlabel=axis, ylabel=figure)
    if all(point[axis] > 0 for point in points):
        axes.set_xscale("log")
    axes.legend(fontsize="small")
    made.savefig(path, dpi=110)
