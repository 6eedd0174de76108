"""What a benchmark found: for each system its figures, its controls', and whether the truth can be found at all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from eigen_lightning.api.known_systems import System
from eigen_lightning.report.benchmark import COLUMNS, HEAD, rows

IN_TERMINAL = ("system", "met", "learned (least)", "PCA", "random", "random network", "CPU s")
"""Those columns of the page that a terminal has room for."""


@dataclass(frozen=True)
class SystemResult:
    """One system over its seeds; figures are of the runs that finished.

    Attributes:
        name, title, bar, published, remark, figure: of the system.
        runs: how many seeds were asked for.
        failures: what those that did not finish said.
        met: how many reached the bar.
        mean: the figure's mean for learned directions and each control.
        least: the learned directions' worst.
        selectivity: mean share that a feature, or state, has in its direction's curvature; None on text.
        objective: coverage of learned directions relative to that of the true ones, mean: above 1 the objective
            prefers something else to the truth, below 1 learning stopped short of it. None where no truth is known.
        eigenshare: share of a feature's curvature that lies along its true direction, mean.
        overlap: mean over features of the largest |cos| of two true directions.
        cpu_seconds: of one run without the network's training, mean.
    """

    name: str
    title: str
    bar: str
    published: str
    remark: str
    figure: str
    runs: int
    failures: tuple[str, ...]
    met: int
    mean: dict[str, float]
    least: float | None
    selectivity: float | None
    objective: float | None
    eigenshare: float | None
    overlap: float | None
    cpu_seconds: float | None

    @classmethod
    def of(cls, system: System, rows: Sequence[Mapping[str, Any]]) -> "SystemResult":
        """From the rows of the system's study."""
        finished = [row for row in rows if "failure" not in row]
        learned = [row["learned"] for row in finished]
        oracles = [row for row in finished if row.get("oracle", {}).get("coverage")]
        truths = [row["truth"] for row in finished if "truth" in row]

        def mean(values: Sequence[float]) -> float | None:
            return float(np.mean(values)) if values else None

        return cls(
            name=system.name,
            title=system.title,
            bar=system.bar,
            published=system.published,
            remark=system.remark,
            figure=system.figure,
            runs=len(rows),
            failures=tuple(row["failure"] for row in rows if "failure" in row),
            met=sum(map(system.met, finished)),
            mean={
                column: float(np.mean([row[column][system.figure] for row in finished]))
                for column in COLUMNS
                if finished and all(system.figure in row.get(column, {}) for row in finished)
            },
            least=min((card[system.figure] for card in learned), default=None),
            selectivity=mean([card["selectivity"] for card in learned if "selectivity" in card]),
            objective=mean([row["learned"]["coverage"] / row["oracle"]["coverage"] for row in oracles]),
            eigenshare=mean([truth["eigenshare"] for truth in truths]),
            overlap=mean([truth["overlap"] for truth in truths]),
            cpu_seconds=mean([row["cpu_seconds"] for row in finished]),
        )


@dataclass(frozen=True)
class BenchmarkResults:
    """All systems that were run.

    Attributes:
        run_dir: where the page and the runs lie.
        first_seed, seeds: of every system.
        systems: one result each, in the order of the table.
    """

    run_dir: str
    first_seed: int
    seeds: int
    systems: tuple[SystemResult, ...]

    def to_json(self) -> str:
        """The content of benchmark.json."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self) -> Table:
        """A row a system."""
        table = Table(title=f"Known circuits, seeds {self.first_seed} to {self.first_seed + self.seeds - 1}")
        for name in IN_TERMINAL:
            table.add_column(name, justify="left" if name == "system" else "right", overflow="fold")
        for cells in rows(self.to_json()):
            table.add_row(*(escape(cells[HEAD.index(name)]) for name in IN_TERMINAL))
        return table
