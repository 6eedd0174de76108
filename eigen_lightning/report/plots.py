"""Figures of a run for a notebook or a paper, without pyplot: drawn anywhere, kept by nobody."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from eigen_lightning.run.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def blank(width: float = 5.0, height: float = 3.6) -> "Figure":
    """An empty figure, drawn by Agg.

    Raises:
        UserError: where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("expected matplotlib for figures: pip install 'eigen-lightning[plots]'") from error

    class ShownFigure(Figure):
        """A notebook shows it although pyplot, which would tell it how, was never used."""

        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=80)
            return content.getvalue()

    figure = ShownFigure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def curve_of_metrics(path: Path, name: str) -> tuple[list[int], list[float]]:
    """The steps and values at which ``metrics.csv`` has a metric.

    Raises:
        UserError: where it has none of that name.
    """
    if not path.exists():
        raise UserError(f"expected {path}, which does not exist: leave the run its loggers")
    with path.open(newline="", encoding="utf-8") as lines:
        points = [(int(row["step"]), float(row[name])) for row in csv.DictReader(lines) if row.get(name)]
    if not points:
        raise UserError(f"expected {name} in {path}, found none: fit with the Interference callback")
    return [step for step, _ in points], [value for _, value in points]


def steepness_figure(steps: list[int], values: list[float], controls: Mapping[str, float]) -> "Figure":
    """Steepness over training, with the final value of each control as a labelled line."""
    figure = blank()
    axes = figure.add_subplot()
    axes.plot(steps, values, marker="o", markersize=3, label="learned")
    for number, (name, value) in enumerate(controls.items(), start=1):
        axes.axhline(value, linestyle="--", linewidth=1, color=f"C{number}", label=name)
    axes.set(xlabel="step", ylabel="steepness on held-out samples", yscale="log")
    axes.legend(fontsize=8)
    return figure


def responses_figure(line: Mapping[str, Any]) -> "Figure":
    """True divergence after steps along a direction and along random ones, beside the quadratic prediction.

    Args:
        line: of ``interventions.json``, of a direction that is not dead.
    """
    figure = blank()
    axes = figure.add_subplot()
    axes.plot(line["deltas"], line["predicted"], "k:", label="predicted")
    labels = {"top": "top samples", "random": "random samples", "control_top": "random direction, top samples"}
    for name, label in labels.items():
        axes.plot(line["deltas"], line[name], marker="o", markersize=3, label=label)
    axes.set(xlabel="step δ along the direction", ylabel="mean divergence", yscale="log")
    axes.legend(fontsize=8)
    return figure


def structure_figure(shares: Mapping[str, Float[np.ndarray, " K"]]) -> "Figure":
    """Where each direction's squared norm is: a bar a direction, stacked by parameter.

    Args:
        shares: by parameter.
    """
    figure = blank()
    axes = figure.add_subplot()
    below = np.zeros(len(next(iter(shares.values()))))
    for name, share in shares.items():
        axes.bar(range(len(share)), share, bottom=below, label=name)
        below = below + share
    axes.set(xlabel="direction", ylabel="share of the squared norm", ylim=(0, 1))
    axes.legend(fontsize=8)
    return figure
