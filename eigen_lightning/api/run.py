"""A finished run, from its folder: what it found, and its target to ask further. Nothing of Lightning is loaded."""

import html
import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigen_lightning.analysis.intervention import Curve, Intervention, Samples, intervene, random_directions
from eigen_lightning.analysis.structure import Structure, structure
from eigen_lightning.api.whole_models import WholeModels
from eigen_lightning.curvature import Divergence, Linearizer
from eigen_lightning.curvature.divergence import NAMED
from eigen_lightning.report import comparison as compared
from eigen_lightning.report import plots, write_report
from eigen_lightning.report.heat_map import heat_map_figure
from eigen_lightning.report.text import one_line
from eigen_lightning.report.writing import direction_page
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.shared_folder import run_folder
from eigen_lightning.run.tensor_tree import TensorTree
from eigen_lightning.targets import Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eigen_lightning.analysis.health import Health

log = logging.getLogger(__name__)

SAMPLES_AT_ONCE = 256
SHOWN = 3
"""Top examples a direction that a notebook shows where there is no report."""


class Run(WholeModels):
    """The results of a run.

    Attributes:
        folder: where they lie; :class:`RunFolder` knows its files.
    """

    def __init__(
        self, folder: RunFolder, target: Target | None = None, divergence: Divergence | None = None, device: Any = None
    ) -> None:
        """
        Args:
            folder: of the run.
            target: loaded; None makes it from the manifest when it is first needed.
            divergence: None takes the manifest's.
            device: where the target goes; None leaves it where it is.

        Raises:
            UserError: where the folder holds no results.
        """
        self._prepared: Linearizer | None = None
        for path in (folder.manifest, folder.directions):
            if not path.exists():
                raise UserError(
                    f"expected a run folder with results, got {folder.path}, which has no {path.name}: call "
                    "eigen_lightning.fit, or `eigen-lightning fit --run_dir` there first"
                )
        self.folder = folder
        self._target, self._divergence, self._device = target, divergence, device

    # ------------------------------------------------------------------------------------------------ what was found

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Versions, seed, fingerprints: what ``manifest.json`` holds."""
        return self.folder.read_json(self.folder.manifest)

    @cached_property
    def U(self) -> Float[Tensor, "K P"]:  # noqa: N802 - the name of the quantity
        """All directions, rows in unit norm."""
        return self._stored[0]

    @cached_property
    def _stored(self) -> tuple[Tensor, dict[str, tuple[int, ...]]]:
        return self.folder.read_directions()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each decomposed parameter, in the order of P."""
        return self._stored[1]

    @cached_property
    def directions(self) -> dict[str, Float[Tensor, "K *shape"]]:
        """By parameter, each direction's part in it."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        parts = self.U.split(sizes, 1)
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
        return len(self.U)

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
        return structure(self.U[self._index(k)][None], self.shapes, heads)

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

    # --------------------------------------------------------------------------------------------- asking the target

    @cached_property
    def target(self) -> Target:
        """The target, loaded, with the weights that were decomposed.

        Raises:
            UserError: where it cannot be made from the run folder alone, or is another than was decomposed.
        """
        target = self._target
        if target is None:
            target = self._from_recipe(None)
        if not hasattr(target, "network"):
            target.load(self.folder)
        if target.fingerprint() != self.manifest["target_fingerprint"]:
            raise UserError(
                f"expected the target that was decomposed ({self.manifest['target_fingerprint'][:12]}), got another "
                f"({target.fingerprint()[:12]}): give the model with the weights it had then"
            )
        return target if self._device is None else target.to(self._device)

    @cached_property
    def divergence(self) -> Divergence:
        """How far outputs are apart.

        Raises:
            UserError: where it is one of your own, and was not given.
        """
        if self._divergence is not None:
            return self._divergence
        name = self.manifest["curvature"]["divergence"]
        known = {kind.__name__: kind for kind in NAMED.values()}
        if name not in known:
            raise UserError(
                f"expected the run's divergence, {name}, which is none of the package's: give it to load(path, "
                "divergence=...)"
            )
        return known[name]()

    @torch.no_grad()
    def d2D(self, inputs: Any) -> Float[Tensor, "K *samples"]:  # noqa: N802 - the name of the quantity
        """d2D of every direction on inputs: how much the output moves, to second order, per squared step.

        Args:
            inputs: ``[batch, ...]``, or several tensors as the network takes them (dict or tuple); of a language model
                also a text, whose tokens are the samples.

        Returns:
            ``[K, batch, *positions]``; of a text ``[K, tokens]``.
        """
        of_text = isinstance(inputs, str)
        batch = self._inputs(inputs)
        linearizer = self.linearizer(batch[:SAMPLES_AT_ONCE])
        parts = [
            linearizer(batch[start : start + SAMPLES_AT_ONCE]).d2D(self.U.to(batch.device))
            for start in range(0, len(batch), SAMPLES_AT_ONCE)
        ]
        values = torch.cat(parts, 1).cpu()
        return values[:, 0] if of_text else values

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text, as :meth:`d2D` sees it."""
        return [self._tokenizer.decode([token]) for token in self._token_ids(text)]

    def linearizer(self, inputs: Any) -> Linearizer:
        """Linearizes the target as the run did.

        Args:
            inputs: a batch like those to come, ``[batch, ...]``.
        """
        inputs = inputs.to(next(self.target.network.parameters()).device)
        if self._prepared is None:
            curvature = self.manifest["curvature"]
            self._prepared = Linearizer.prepare(
                self.target,
                self.divergence,
                inputs,
                curvature["method"],
                curvature["pulled_back_metric"],
                n_directions=len(self),
            )
        return self._prepared

    @contextmanager
    def perturbed(self, k: int, delta: float) -> Iterator[Target]:
        """The target with weights ``W0 + delta u_k``; W0 again afterwards.

        Args:
            k: which direction.
            delta: the step, in the norm of the flat weights.
        """
        weights = self.target.weights
        kept = {name: tensor.clone() for name, tensor in weights.items()}
        step = self.target.space.unflatten(delta * self.U[self._index(k)])
        try:
            with torch.no_grad():
                for name, tensor in weights.items():
                    tensor.add_(step[name].to(tensor))
            yield self.target
        finally:
            with torch.no_grad():
                for name, tensor in weights.items():
                    tensor.copy_(kept[name])

    def intervene(
        self, k: int, top: Tensor, random: Tensor, controls: int = 16, steps: int = 7, seed: int = 0
    ) -> Intervention:
        """What true steps along direction k do on inputs of one's own, beside random directions.

        Args:
            k: which direction.
            top: inputs on which it is steep, ``[n, ...]``; outputs have no positions.
            random: inputs to compare with.
            controls: random directions that the control is the mean of.
            steps: steps on each side.
            seed: of the random directions.

        Raises:
            UserError: where outputs have positions, or the direction has no curvature on ``top``.
        """
        values = self.d2D(top)[self._index(k)]
        if values.ndim != 1:
            raise UserError(f"expected outputs without positions, got {list(values.shape[1:])} a sample")
        device = next(self.target.network.parameters()).device
        drawn = random_directions(controls, self.U.shape[1], seed).to(self.U).to(device)
        there, elsewhere = Samples(self._inputs(top)), Samples(self._inputs(random))
        direction, curvature = self.U[k].to(device), float(values.mean())
        return intervene(self.target, self.divergence, direction, drawn, curvature, there, elsewhere, steps)

    # --------------------------------------------------------------------------------------------------- showing

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
        return plots.structure_figure(
            {name: share.numpy() for name, share in structure(self.U, self.shapes).by_parameter.items()}
        )

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

    # -------------------------------------------------------------------------------------------------- parts

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

    def _from_recipe(self, module: nn.Module | None) -> Target:
        """The target as the manifest describes it."""
        recipe = self.manifest["target"]["recipe"]
        package, _, name = recipe["class_path"].rpartition(".")
        own = not package.startswith(f"{__name__.partition('.')[0]}.")
        if own or (module is None and recipe["missing"]):
            raise UserError(
                f"expected the model that was decomposed, a {self.manifest['target'].get('name', name)}, which the run "
                "folder does not hold: call eigen_lightning.load(path, model=...)"
            )
        kind = getattr(importlib.import_module(package), name)
        return kind(**({} if module is None else {"module": module}), **recipe["init_args"])

    def _with_model(self, model: Any) -> None:
        if isinstance(model, nn.Module):
            if not self.manifest["target"]["recipe"]["class_path"].endswith(".Network"):
                raise UserError(
                    f"expected a {self.manifest['target']['class']}, got a module: give the target itself as `model`, "
                    "or leave it out"
                )
            if "select" in self.manifest["target"]["recipe"]["missing"]:
                raise UserError(
                    "expected a Network, as the function that selects its output is not in the run folder: give "
                    "model=eigen_lightning.Network(module, parameters, select=...)"
                )
            self._target = self._from_recipe(model)
        elif isinstance(model, Target):
            self._target = model
        elif model is not None:
            raise UserError(f"expected an nn.Module or a Target as `model`, got {type(model).__name__}")

    @property
    def _tokenizer(self) -> Any:
        tokenizer = getattr(self.target, "tokenizer", None)
        if tokenizer is None:
            raise UserError(f"expected inputs, got a text: {type(self.target).__name__} has no tokenizer to read it")
        return tokenizer

    def _token_ids(self, text: str) -> list[int]:
        # As data windows are made: a window in the middle of a story has no special tokens.
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _inputs(self, inputs: Any) -> Any:
        device = next(self.target.network.parameters()).device
        if isinstance(inputs, str):
            inputs = torch.tensor([self._token_ids(inputs)])
        elif isinstance(inputs, Mapping | tuple):
            inputs = TensorTree.of(inputs)
        elif not isinstance(inputs, Tensor | TensorTree):
            inputs = torch.as_tensor(inputs)
        self.target.check_inputs(inputs)
        return inputs.to(device)


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


CURVE = ("deltas", "predicted", "top", "random", "control_top", "control_random")
COLUMNS = ("learned", "random", "pca", "oracle")


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


def _shown(example: dict[str, Any]) -> str:
    if "token" in example:
        return f"{example['before']}[{example['token']}]{example['after']}"
    return one_line(example)


def load(path: str | Path, model: Any = None, divergence: Divergence | None = None, device: Any = None) -> Run:
    """A run from its folder: no Trainer, no training data.

    Args:
        path: the run's folder, one that ``Run.save_pretrained`` wrote, or the Hub name of one.
        model: the network that was decomposed, a module or a target, where it is your own; toys are in the folder, and
            language models are loaded by name.
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
