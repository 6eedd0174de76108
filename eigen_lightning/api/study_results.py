"""What a study found: one row a run, figures a setting, a table and a plot."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder


@dataclass(frozen=True)
class Study:
    """Runs of one configuration over seeds and settings.

    Attributes:
        run_dir: the study's folder.
        config: the configuration files.
        rows: see :func:`outcome`.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("learned", "pca", "random", "random_network", "oracle")
    run_dir: str
    config: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    @property
    def keys(self) -> list[str]:
        """The configuration keys that vary."""
        return list(dict.fromkeys(key for row in self.rows for key in row["point"]))

    @property
    def axis(self) -> str | None:
        """The one key that varies; None where none or several do."""
        return self.keys[0] if len(self.keys) == 1 and len(self.summary()) > 1 else None

    def summary(self) -> list[dict[str, Any]]:
        """For each setting, in order, how many runs succeeded, and mean, spread and range of every figure.

        A run that failed counts against the rate of success, and is in no mean.
        """
        by_point: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            by_point.setdefault(json.dumps(row["point"]), []).append(row)
        return [_summary(rows) for rows in by_point.values()]

    def table(self) -> Table:
        """A row a setting with its mcc; where the truth is not known, one for each figure of the scorecard."""
        points = self.summary()
        columns = [column for column in self.COLUMNS if any(column in point for point in points)]
        known = any("successes" in point for point in points)
        labels = ["PCA" if column == "pca" else column.replace("_", " ") for column in columns]
        caption = ["mcc: mean (least) over runs" if known else "mean ± standard deviation over runs"]
        failed = [row for row in self.rows if "failure" in row]
        caption += [escape(f"{'/'.join(Path(row['run_dir']).parts[-2:])}: {row['failure']}") for row in failed]
        made = Table(
            title=escape(", ".join(self.config)), caption="\n".join(caption), box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        keys = [key.rsplit(".", 1)[-1].replace("_", " ") for key in self.keys]
        for name in (*keys, "runs", *(["matched (95 %)", "K read off"] if known else ["figure"]), *labels, "CPU s"):
            made.add_column(name, overflow="fold")
        for point in points:
            head = [escape(shown(point["point"].get(key, ""))) for key in self.keys] + [str(point["runs"])]
            tail = f"{point['cpu_seconds']['mean']:.1f}" if "cpu_seconds" in point else "none finished"
            if known:
                low, high = point.get("wilson_95", (0, 0))
                head.append(f"{point['successes']} ({low:.2f} to {high:.2f})" if "successes" in point else "")
                head.append(
                    f"{point['read_off']} of {point['runs'] - point['failures']}" if "read_off" in point else ""
                )
            for name in ["mcc"] if known else point.get("learned", [""]):
                cells = [_cell(point.get(column, {}).get(name), known) for column in columns]
                made.add_row(*head, *([] if known else [name.replace("_", " ")]), *cells, tail)
                head, tail = [""] * len(head), ""
        return made

    def plot(self, path: str | Path) -> None:
        """mcc, or steepness where the truth is not known, against the one key that varies; controls dashed.

        Raises:
            UserError: where not exactly one key varies, or matplotlib is not installed.
        """
        if self.axis is None:
            raise UserError(f"expected one key that varies, got {', '.join(self.keys) or 'none'}: see the table")
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise UserError("expected matplotlib, found none: pip install 'eigen-lightning[plots]'") from error
        points = [point for point in self.summary() if "learned" in point]
        places = [point["point"].get(self.axis) for point in points]
        numbers = all(isinstance(place, int | float) and not isinstance(place, bool) for place in places)
        figure = "mcc" if all("mcc" in point["learned"] for point in points) else "steepness"
        made = Figure(figsize=(6, 3.6), layout="constrained")
        axes = made.subplots()
        x = places if numbers else [shown(place) for place in places]
        for column in self.COLUMNS:
            if all(figure in point.get(column, {}) for point in points):
                figures = [point[column][figure] for point in points]
                style = "-o" if column == "learned" else "--"
                (line,) = axes.plot(x, [each["mean"] for each in figures], style, label=column.replace("_", " "))
                least, most = ([each[name] for each in figures] for name in ("min", "max"))
                axes.fill_between(x, least, most, color=line.get_color(), alpha=0.2)
        axes.set(xlabel=self.axis, ylabel=f"{figure}, mean and range over seeds")
        if numbers and min(places) > 0 and max(places) > 20 * min(places):
            axes.set_xscale("log")
        axes.legend(fontsize="small")
        made.savefig(path, dpi=110)

    def to_json(self) -> dict[str, Any]:
        """Primitives, as study.json holds them."""
        return {
            "run_dir": self.run_dir,
            "config": list(self.config),
            "summary": self.summary(),
            "rows": list(self.rows),
        }

    def _repr_html_(self) -> str:
        console = Console(record=True, file=io.StringIO(), width=160)
        console.print(self.table())
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def outcome(point: dict[str, Any], seed: int, run: RunFolder, failure: str | None) -> dict[str, Any]:
    """What one run found: its ``failure``; else the columns of its scorecard and, where the truth is known, whether
    every feature was matched with |cos| above 0.9 (``success``), and how many the greedy choice's gains tell
    (``read_off``)."""
    row: dict[str, Any] = {"point": point, "seed": seed, "run_dir": str(run.path)}
    if failure is not None:
        return row | {"failure": failure}
    card, manifest = run.read_json(run.scorecard), run.read_json(run.manifest)
    row |= {column: card[column] for column in Study.COLUMNS if column in card}
    row |= {name: manifest[name] for name in ("n_directions", "cpu_seconds", "target_fingerprint")}
    if "truth" in card:
        row["truth"] = card["truth"]
    if "features" in card:
        row |= {"features": card["features"], "success": card["learned"]["matched"] == card["features"]}
        if manifest["curvature"].get("gains"):
            row["read_off"] = manifest["curvature"]["gains_above_a_tenth"]
    return row


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from scipy.stats import binomtest

    finished = [row for row in rows if "failure" not in row]
    made: dict[str, Any] = {"point": rows[0]["point"], "runs": len(rows), "failures": len(rows) - len(finished)}
    if not finished:
        return made
    if all("success" in row for row in finished):
        successes = sum(row["success"] for row in finished)
        interval = binomtest(successes, len(rows)).proportion_ci(0.95, method="wilson")
        made |= {"successes": successes, "rate": successes / len(rows), "wilson_95": [*map(float, interval)]}
    if all("read_off" in row for row in finished):
        made["read_off"] = sum(row["read_off"] == row["features"] for row in finished)
    for column in Study.COLUMNS:
        if all(column in row for row in finished):
            made[column] = {name: distribution([row[column][name] for row in finished]) for name in finished[0][column]}
    return made | {"cpu_seconds": distribution([row["cpu_seconds"] for row in finished])}


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation and range."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": spread, "min": float(min(values)), "max": float(max(values))}


def _cell(figure: dict[str, float] | None, least: bool) -> str:
    if figure is None:
        return ""
    return f"{figure['mean']:.3f} ({figure['min']:.3f})" if least else f"{figure['mean']:.3g} ± {figure['std']:.2g}"


def shown(value: Any) -> str:
    """A value of the configuration as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)
