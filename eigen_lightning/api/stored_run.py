"""What a run found, read from its folder."""

import html
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.analysis.figures import COLUMNS
from eigen_lightning.analysis.intervention import Curve, Intervention
from eigen_lightning.analysis.structure import Structure, structure
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import Rows, dense
from eigen_lightning.run.folder import RunFolder

if TYPE_CHECKING:
    from eigen_lightning.analysis.health import Health

CURVE = ("deltas", "predicted", "top", "random", "control_top", "control_random")


class StoredRun:
    """The results of a run.

    Attributes:
        folder: where they lie; :class:`RunFolder` knows its files.
    """

    def __init__(self, folder: RunFolder) -> None:
        """
        Args:
            folder: of the run.

        Raises:
            UserError: where the folder holds no results.
        """
        for path in (folder.manifest, folder.directions):
            if not path.exists():
                raise UserError(
                    f"expected a run folder with results, got {folder.path}, which has no {path.name}: call "
                    "eigen_lightning.fit, or `eigen-lightning fit --run_dir` there first"
                )
        self.folder = folder

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Versions, seed, fingerprints: what ``manifest.json`` holds."""
        return self.folder.read_json(self.folder.manifest)

    @property
    def U(self) -> Float[Tensor, "K P"]:  # noqa: N802 - the name of the quantity
        """All directions, rows in unit norm.

        Raises:
            UserError: where factors hold more directions than dense rows could; :attr:`rows` has them one by one.
        """
        return dense(self.rows, "run.U")

    @property
    def rows(self) -> Rows:
        """All directions as :attr:`U` has them; of factors too many to be dense, ``run.rows[k]`` writes one out."""
        return self._stored[0]

    @cached_property
    def _stored(self) -> tuple[Rows, dict[str, tuple[int, ...]]]:
        return self.folder.read_directions()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each decomposed parameter, in the order of P."""
        return self._stored[1]

    @cached_property
    def directions(self) -> dict[str, Float[Tensor, "K *shape"]]:
        """By parameter, each direction's part in it."""
        return self._split(self.U)

    def by_parameter(self, k: int) -> dict[str, Float[Tensor, "*shape"]]:
        """Direction k's part in each parameter."""
        return {name: part[0] for name, part in self._split(self.rows[self._index(k)][None]).items()}

    def _split(self, rows: Tensor) -> dict[str, Tensor]:
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        parts = rows.split(sizes, 1)
        return {name: part.reshape(-1, *self.shapes[name]) for name, part in zip(self.shapes, parts, strict=True)}

    def reads(self, k: int) -> dict[str, Float[Tensor, "n r"]]:
        """What direction k reads in each matrix: the factor over its inputs, of a run that holds directions as factors.

        Raises:
            UserError: where the run holds dense rows.
        """
        return self._factors(k, "reads")

    def writes(self, k: int) -> dict[str, Float[Tensor, "m r"]]:
        """What direction k writes in each matrix: the factor over its outputs; as :meth:`reads`."""
        return self._factors(k, "writes")

    def _factors(self, k: int, which: str) -> dict[str, Tensor]:
        stored, index = self.folder.read_factors(), self._index(k)
        if not stored:
            raise UserError(
                "expected a run that holds directions as factors, got one with dense rows: fit with "
                "model.directions {rank: 1}, or take the leading singular vectors of run.directions"
            )
        return {name.removesuffix(f"/{which}"): stored[name][index] for name in stored if name.endswith(f"/{which}")}

    def __len__(self) -> int:
        """K."""
        return len(self.rows)

    def top_examples(self, k: int, samples: str = "examples") -> list[dict[str, Any]]:
        """The samples on which direction k's d2D is largest, largest first, as ``top_examples.jsonl`` has them.

        Args:
            k: which direction.
            samples: ``examples`` for the held-out ones, or the name of another evaluation set.
        """
        return self._line(self.folder.top_examples, "TopExamples", k)[samples]

    @property
    def labels(self) -> dict[int, str]:
        """A person's own labels by direction: ``labels.json``, as the report saves it, put into the run's folder.

        Raises:
            UserError: where it holds anything else.
        """
        if not self.folder.labels.exists():
            return {}
        held = self.folder.read_json(self.folder.labels)
        wrong = [key for key, text in held.items() if not key.isdigit() or not isinstance(text, str)]
        if wrong or any(int(key) >= len(self) for key in held):
            raise UserError(
                f"expected labels of directions 0 to {len(self) - 1} in {self.folder.labels}, got "
                f"{', '.join(held)[:200]}: save them from this run's report"
            )
        return {int(key): text for key, text in held.items()}

    @property
    def scorecard(self) -> "Scores":
        """Quality beside that of controls: what ``scorecard.json`` holds."""
        return Scores(self._json(self.folder.scorecard, "Scorecard"))

    @property
    def health(self) -> "Health":
        """Dead, duplicate and collapsed directions on the held-out samples."""
        # Not above: torchmetrics, beside it, loads Lightning and transformers.
        from eigen_lightning.analysis.health import Health

        return Health(**self.scorecard["health"])

    def structure(self, k: int, heads: Mapping[str, tuple[int, int]] | None = None) -> Structure:
        """Where direction k's norm is: by parameter, in its first singular pair, in one head.

        Args:
            k: which direction.
            heads: see :func:`eigen_lightning.analysis.structure.structure`.
        """
        return structure(self.rows[self._index(k)][None], self.shapes, heads)

    def curve(self, k: int) -> Intervention:
        """What true steps along direction k did, beside the quadratic prediction and random directions.

        Raises:
            UserError: where the run made no causal checks or none of this direction, or the direction is dead.
        """
        lines = self._json(self.folder.interventions, "Interventions")["directions"]
        line = next((line for line in lines if line["direction"] == self._index(k)), None)
        if line is None:
            raise UserError(
                f"expected one of the {len(lines)} directions that were checked ({lines[0]['direction']}, "
                f"{lines[1]['direction']}, ...), got {k}: `eigen-lightning intervene {self.folder.path} "
                f"--most_directions {len(self)}` checks all"
            )
        if not line["deltas"]:
            raise UserError(f"expected a direction with curvature, got direction {k}, which is dead")
        numbers = {name: torch.tensor(line[name], dtype=torch.float64) for name in CURVE}
        learned = Curve(numbers["top"], numbers["random"])
        control = Curve(numbers["control_top"], numbers["control_random"])
        return Intervention(numbers["deltas"], numbers["predicted"], learned, control)

    def _index(self, k: int) -> int:
        if not 0 <= k < len(self):
            raise UserError(f"expected a direction from 0 to {len(self) - 1}, got {k}")
        return k

    def _json(self, path: Path, callback: str) -> dict[str, Any]:
        if not path.exists():
            raise UserError(f"expected {path}, which does not exist: run with the callback {callback}")
        return self.folder.read_json(path)

    def _line(self, path: Path, callback: str, k: int) -> dict[str, Any]:
        if not path.exists():
            raise UserError(f"expected {path}, which does not exist: run with the callback {callback}")
        return self.folder.read_lines(path)[self._index(k)]


class Scores(dict[str, Any]):
    """A scorecard: figures by column, ``learned`` and its controls; a table in a notebook."""

    def _repr_html_(self) -> str:
        columns = [column for column in COLUMNS if column in self]
        head = "".join(f"<th>{column}</th>" for column in columns)
        rows = [
            f"<tr><th>{html.escape(name)}</th>"
            + "".join(f"<td>{self[column].get(name, float('nan')):.3g}</td>" for column in columns)
            + "</tr>"
            for name in self["learned"]
        ]
        return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
