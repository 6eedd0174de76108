"""The run folder: the only file that knows its paths and formats."""

import errno
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from eigen_lightning.run.factored_rows import FactoredRows, Part, Rows

NOT_OFFERED = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems answer that do not flush folders."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write to a temporary file beside ``path``, flush it to disk, then rename: a reader sees all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # What a full disk let through would only keep it full.
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    _flush_folder(path.parent)


def keep_as(path: Path, other: Path) -> None:
    """Have the content of ``path`` under the name ``other`` too: a second link, or a copy where there are no links."""
    link = other.with_name(f".{other.name}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    # File systems without links answer EPERM, EACCES, ENOTSUP, ENOSYS and more; a disk that fails fails the copy too.
    except OSError:
        write_atomically(other, path.read_bytes())
    else:
        link.replace(other)


def _flush_folder(path: Path) -> None:
    """A rename is only on disk once the folder is."""
    try:
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


def tensor_file(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> bytes:
    """A safetensors file that is the same to the byte whenever it holds the same; ``facts`` are its metadata, sorted.

    safetensors writes them in an order that differs from process to process.
    """
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(own, metadata=dict(facts))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(facts.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Tensors begin at a multiple of eight.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class RunFolder:
    """One run's results on disk; see README for what each file holds."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.manifest = self.path / "manifest.json"
        self.checkpoints = self.path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.tensorboard = self.path / "tensorboard"
        self.metrics = self.path / "metrics.csv"
        self.target = self.path / "target.safetensors"
        self.target_model = self.path / "target_model"
        self.directions = self.path / "directions.safetensors"
        self.scorecard = self.path / "scorecard.json"
        self.interference = self.path / "interference.npy"
        self.top_examples = self.path / "top_examples.jsonl"
        self.interventions = self.path / "interventions.json"
        self.cards = self.path / "cards.jsonl"
        self.coactivity = self.path / "coactivity.npy"
        self.vocabulary = self.path / "vocabulary.jsonl"
        self.circuit = self.path / "circuit.json"
        self.labels = self.path / "labels.json"
        self.report = self.path / "report.html"

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Work on the folder as if it were empty; where that fails before it has any results, the folder is as it was.

        Only the files named above are touched, whatever else lies in the folder. A trained target in a folder that
        holds no run's results was put there to be used, and stays.
        """
        self.recover()
        given = None if self.manifest.exists() else self.target
        mine = [path for path in self._mine if path != given]
        held = [path for path in mine if path.exists()]
        for path in held:
            self._set_aside.mkdir(exist_ok=True)
            path.rename(self._set_aside / path.name)
        refused = False
        try:
            yield
        except Exception:
            refused = True
            raise
        finally:
            # What was stopped may be started again, and finds the target it has trained.
            if (held or refused) and not self.manifest.exists():
                for path in mine:
                    _remove(path)
            self.recover()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Work on with the folder's results; event files that were opened in vain are removed where that fails."""
        events = self._event_files()
        manifest = self.manifest.read_bytes() if self.manifest.exists() else None
        try:
            yield
        except BaseException:
            if manifest is not None and self.manifest.read_bytes() == manifest:
                for path in self._event_files() - events:
                    path.unlink()
            raise

    def _event_files(self) -> set[Path]:
        return set(self.tensorboard.glob("events.out.tfevents.*"))

    def recover(self) -> None:
        """Finish a :meth:`replaced` that was cut off: keep the new results where there are any, else the old ones."""
        before = self._set_aside
        if not before.exists():
            return
        if not self.manifest.exists():
            for path in reversed(self._mine):
                if (before / path.name).exists():
                    _remove(path)
                    (before / path.name).rename(path)
        _remove(before)

    @property
    def _set_aside(self) -> Path:
        return self.path / ".replaced"

    @property
    def _mine(self) -> list[Path]:
        # The manifest tells whose results a folder holds: it goes first and returns last, so that whoever is cut off
        # in between can be told apart from whoever has written results of his own.
        mine = [path for path in vars(self).values() if path.parent == self.path and path != self.manifest]
        return [self.manifest, *mine]

    def write_target(self, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep a toy target's trained weights W0, with what is known of their training."""
        write_atomically(self.target, tensor_file(weights, {"training": json.dumps(facts)}))

    def read_target(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights and facts that :meth:`write_target` kept."""
        with safe_open(self.target, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("training", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts

    def write_directions(
        self,
        directions: Rows,
        shapes: Mapping[str, Sequence[int]],
        factors: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep U, rows in unit norm, with the parameters' names and shapes in the order of P.

        Args:
            directions: U; kept where it is dense.
            shapes: of the parameters.
            factors: what :meth:`read_factors` gives back, of a run that holds directions as factors.
        """
        metadata = {
            "parameters": json.dumps(list(shapes)),
            "shapes": json.dumps([list(shape) for shape in shapes.values()]),
        }
        tensors = dict(factors or {}) | ({"U": directions} if isinstance(directions, Tensor) else {})
        write_atomically(self.directions, tensor_file(tensors, metadata))

    def read_directions(self) -> tuple[Rows, dict[str, tuple[int, ...]]]:
        """U, and the parameters' shapes by name in the order of P."""
        with safe_open(self.directions, framework="pt") as file:
            metadata, names = file.metadata(), file.keys()
            of_parameters = map(tuple, json.loads(metadata["shapes"]))
            shapes = dict(zip(json.loads(metadata["parameters"]), of_parameters, strict=True))
            if "U" in names:
                return file.get_tensor("U"), shapes
        factors = self.read_factors()
        parts: dict[str, Part] = {
            name: factors[name] if name in factors else (factors[f"{name}/writes"], factors[f"{name}/reads"])
            for name in shapes
        }
        return FactoredRows(parts), shapes

    def read_factors(self) -> dict[str, Tensor]:
        """Tensors beside U: ``NAME/writes [K, m, r]`` and ``NAME/reads [K, n, r]`` of matrices held as factors, and
        ``NAME [K, size]`` of vectors."""
        with safe_open(self.directions, framework="pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys()) if name != "U"}

    def write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write one of the folder's JSON files, keys in the order given."""
        write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def read_json(self, path: Path) -> dict[str, Any]:
        """One of the folder's JSON files."""
        return json.loads(path.read_text(encoding="utf-8"))

    def write_interference(self, matrix: Float[Tensor, "K K"]) -> None:
        """Keep the interference matrix of the last epoch."""
        self.write_matrix(self.interference, matrix)

    def write_matrix(self, path: Path, matrix: Float[Tensor, "K K"]) -> None:
        """Write one of the folder's matrices: the interference or the co-activity of the last epoch."""
        content = io.BytesIO()
        np.save(content, matrix.detach().float().cpu().numpy())
        write_atomically(path, content.getvalue())

    def write_lines(self, path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write one of the folder's files of JSON lines, one line a direction."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(path, text.encode())

    def read_lines(self, path: Path) -> list[dict[str, Any]]:
        """One dict a direction, in order."""
        # Not splitlines, which also cuts at the line ends that text may hold.
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]

    def write_top_examples(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Keep the top examples, one JSON line a direction."""
        self.write_lines(self.top_examples, lines)

    def read_top_examples(self) -> list[dict[str, Any]]:
        """One dict a direction, in order."""
        return self.read_lines(self.top_examples)
