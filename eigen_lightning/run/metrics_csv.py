"""metrics.csv: every logged scalar, one row a step, continued by a resumed run."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from eigen_lightning.run.folder import write_atomically


class MetricsCSV(Logger):
    """A Lightning logger that keeps one table in one file.

    Values logged at one step share a row. A resumed run drops the rows that its checkpoint does not know of.

    Args:
        path: the file, ``metrics.csv`` of the run folder.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._columns = ["step"]
        self._closed_rows = 0
        self._current: dict[str, str] = {}

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def resume(self, steps: int) -> None:
        """Keep the file's rows below ``steps``, the number of steps done; none for a fresh run."""
        rows = [row for row in self._read() if row["step"].isdecimal() and int(row["step"]) < steps]
        self._columns = list(dict.fromkeys(["step", *(name for row in rows for name in row)])) if rows else ["step"]
        self._current = {}
        if self.path.exists() or rows:
            self._rewrite(rows)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: how many rows are in the file, and the row that is still open."""
        return {"columns": list(self._columns), "rows": self._closed_rows, "current": dict(self._current)}

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the file and the open row what they were at :meth:`state_dict`; later rows are dropped."""
        rows = self._read()[: state["rows"]]
        self._columns, self._current = list(state["columns"]), dict(state["current"])
        if rows or self.path.exists():
            self._rewrite(rows)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of a step; a new step closes the row before it."""
        label = str(step or 0)
        if self._current.get("step", label) != label:
            self._close_row()
        self._current["step"] = label
        for name, value in metrics.items():
            self._current[name] = str(int(value)) if name == "epoch" else repr(float(value))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Hyper-parameters are in config.yaml."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the row that is still open."""
        self._close_row()

    def _close_row(self) -> None:
        if not self._current:
            return
        new = [name for name in self._current if name not in self._columns]
        if new or not self.path.exists():
            self._columns += new
            self._rewrite([*self._read(), self._current])
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(self._current)
            self._closed_rows += 1
        self._current = {}

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._closed_rows = len(rows)
        write_atomically(self.path, text.getvalue().encode())
