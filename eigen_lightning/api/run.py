"""A finished run, from its folder: what it found, and its target to ask further. Nothing of Lightning is loaded."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eigen_lightning.analysis.figures import COLUMNS
from eigen_lightning.analysis.structure import structure
from eigen_lightning.api.whole_models import WholeModels
from eigen_lightning.curvature import Divergence
from eigen_lightning.report import comparison as compared
from eigen_lightning.report import plots, write_report
from eigen_lightning.report.heat_map import heat_map_figure
from eigen_lightning.report.text import one_line
from eigen_lightning.report.writing import direction_page
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import blocks
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.shared_folder import run_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 3
"""Top examples a direction that a notebook shows where there is no report."""


class Run(WholeModels):
    """The results of a run, its target, and how both are shown.

    Attributes:
        folder: where they lie; :class:`RunFolder` knows its files.
    """

    def direction(self, k: int) -> "Direction":
        """Direction k, which shows itself in a notebook as its card in the report."""
        return Direction(self.folder, self._index(k))

    def plot_interference(self) -> "Figure":
        """Interference of each two directions over the geometric mean of their own, as a heat map."""
        if not self.folder.interference.exists():
            raise UserError(f"expected {self.folder.interference}, which does not exist: fit with Interference")
        matrix = np.load(self.folder.interference).astype(float)
        own = np.sqrt(np.maximum(matrix.diagonal(), np.finfo(float).tiny))
        return heat_map_figure(matrix / own[:, None] / own, "Interference, normalized")

    def plot_steepness(self) -> "Figure":
        """Steepness on held-out samples over training, with the controls of the scorecard."""
        steps, values = plots.curve_of_metrics(self.folder.metrics, "heldout/steepness")
        card = self.folder.read_json(self.folder.scorecard) if self.folder.scorecard.exists() else {}
        controls = {name: card[name]["steepness"] for name in COLUMNS[1:] if name in card}
        return plots.steepness_figure(steps, values, controls)

    def plot_responses(self, k: int) -> "Figure":
        """True divergence after steps along direction k, beside prediction and random directions.

        Raises:
            UserError: as :meth:`curve`.
        """
        found = self.curve(k)
        curves = {"top": found.learned.top, "random": found.learned.random, "control_top": found.control.top}
        return plots.responses_figure({"deltas": found.deltas, "predicted": found.predicted, **curves})

    def plot_structure(self) -> "Figure":
        """Share of each direction's squared norm in each parameter."""
        shares = [structure(some, self.shapes).by_parameter for some in blocks(self.rows)]
        return plots.structure_figure({name: np.concatenate([each[name] for each in shares]) for name in self.shapes})

    def report(self) -> Path:
        """Write ``report.html`` from what the folder holds; returns its path."""
        return write_report(self.folder)

    def __repr__(self) -> str:
        facts = self.manifest
        return (
            f"Run({str(self.folder.path)!r}: {facts['n_directions']} directions in {facts['n_parameters']} parameters "
            f"of {facts['target'].get('name') or facts['target']['class']}, {facts['status']})"
        )

    def _repr_html_(self) -> str:
        """The report, in a frame of its own; without one, the scorecard and a few examples."""
        if self.folder.report.exists():
            page = html.escape(self.folder.report.read_text(encoding="utf-8"), quote=True)
            return f'<iframe srcdoc="{page}" width="100%" height="720" style="border:0"></iframe>'
        parts = [f"<p><b>{html.escape(repr(self))}</b></p>"]
        if self.folder.scorecard.exists():
            parts.append(self.scorecard._repr_html_())
        if self.folder.top_examples.exists():
            rows = [
                f"<tr><td>{line['direction']}</td><td>{example['value']:.3g}</td><td>{html.escape(_shown(example))}</td></tr>"
                for line in self.folder.read_top_examples()
                for example in line["examples"][:SHOWN]
            ]
            parts.append(f"<table><tr><th>direction</th><th>d2D</th><th>sample</th></tr>{''.join(rows)}</table>")
        return "".join(parts)


@dataclass(frozen=True)
class Direction:
    """A direction of a run.

    Attributes:
        folder: of the run.
        k: its number.
    """

    folder: RunFolder
    k: int

    def _repr_html_(self) -> str:
        page = html.escape(direction_page(self.folder, self.k), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="560" style="border:0"></iframe>'


def _shown(example: dict[str, Any]) -> str:
    if "token" in example:
        return f"{example['before']}[{example['token']}]{example['after']}"
    return one_line(example)


def load(path: str | Path, model: Any = None, divergence: Divergence | None = None, device: Any = None) -> Run:
    """A run from its folder: no Trainer, no training data.

    Args:
        path: the run's folder, one that ``Run.save_pretrained`` wrote, or the Hub name of one.
        model: the network that was decomposed, a module or a target, where it is your own, or the name or folder of a
            language model that was shared from a folder; toys are in the run's folder, and language models on the Hub
            are loaded by name.
        divergence: where it is your own.
        device: where the target goes.

    Raises:
        UserError: where the folder holds no results.
    """
    run = Run(run_folder(path), None, divergence, device)
    run._with_model(model)
    return run


def compare(run: Run | str | Path, other: Run | str | Path, out: str | Path | None = None) -> compared.Comparison:
    """Which directions two runs share, beside what random directions would.

    Args:
        run: a run, or its folder.
        other: another, of the same parameters.
        out: a page to write; None writes none.

    Raises:
        UserError: where the two lie in different parameter spaces.
    """
    first, second = (each if isinstance(each, Run) else load(each) for each in (run, other))
    if out is not None:
        return compared.write_comparison(first.folder, second.folder, Path(out))
    if first.shapes != second.shapes:
        raise UserError(
            f"expected two runs over the same parameters, got {', '.join(first.shapes)} ({first.U.shape[1]} numbers) "
            f"and {', '.join(second.shapes)} ({second.U.shape[1]} numbers): compare runs of the same target"
        )
    return compared.compare(first.U.double().numpy(), second.U.double().numpy())
