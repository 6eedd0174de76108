"""One run of each kind of samples that was never stopped, to compare with; and what it was made from."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import CommandProcess
from tests.resume import runs
from tests.targets.conftest import save_tiny_model

KINDS = ("xor", "tms", "file", "stream")


def write_stories(folder: Path) -> None:
    """Stories of words that the tiny model knows: a text file, and a data set on disk, streamed like the Hub's."""
    import json

    stories = [" ".join(f"w{(3 * number + step * step) % 61}" for step in range(20)) for number in range(40)]
    (folder / "stories.txt").write_text("".join(f"{story}\n<|endoftext|>\n" for story in stories))
    hub = folder / "hub"
    hub.mkdir()
    (hub / "train.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))


class Kinds:
    """Configurations by kind, and the finished run of each that was never stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._finished: dict[Any, Path] = {}
        self._whole = 0

    def config(self, kind: str, **options: Any) -> dict[str, Any]:
        if kind in ("xor", "tms"):
            return {"xor": runs.xor, "tms": runs.tms}[kind](**options)
        model = self.folder / "model"
        if not model.exists():
            # The shared cache of the Hub is not for tests to write to; forked processes inherit this.
            os.environ["HF_DATASETS_CACHE"] = str(self.folder / "cache")
            save_tiny_model(model, "gpt_neo")
            write_stories(self.folder)
        source = self.folder / ("stories.txt" if kind == "file" else "hub")
        return runs.text(str(source), str(model), **options)

    def finished(self, kind: str, ranks: int = 1, **options: Any) -> Path:
        key = (kind, ranks, tuple(options.items()))
        if key not in self._finished:
            self._whole += 1
            folder = self.fresh(f"whole-{kind}-{self._whole}", kind if ranks > 1 or options else None)
            args = runs.arguments(self.config(kind, **options), folder)
            CommandProcess(args, folder.with_suffix(".log"), ranks).succeed()
            self._finished[key] = folder
        return self._finished[key]

    def fresh(self, name: str, kind: str | None = None) -> Path:
        """A folder for a new run; a toy network that was trained already is put there to be used."""
        folder = self.folder / name
        folder.mkdir()
        if kind in ("xor", "tms"):
            shutil.copy(self.finished(kind) / "target.safetensors", folder)
        return folder


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    return Kinds(tmp_path_factory.mktemp("kinds"))


@pytest.fixture
def start(kinds: Kinds) -> Callable[..., CommandProcess]:
    """Start or go on with a run of a kind in a folder."""

    def begin(kind: str, folder: Path, *more: str, ranks: int = 1, **options: Any) -> CommandProcess:
        args = runs.arguments(kinds.config(kind, **options), folder, "--ckpt_path", "last", *more)
        return CommandProcess(args, folder.with_suffix(".log"), ranks)

    return begin
