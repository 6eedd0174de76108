"""The notebooks: what is stored is what their sources say, and each runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]_*.py"))
LARGEST = 400_000


def cells(source: str) -> list[tuple[str, str]]:
    """The kind and content of each cell of a percent script, in order."""
    body = source.split("# ---\n", 2)[2]
    found = []
    for part in re.split(r"^# %%", body, flags=re.MULTILINE)[1:]:
        head, _, text = part.partition("\n")
        markdown = "[markdown]" in head
        lines = [line.removeprefix("#").removeprefix(" ") for line in text.splitlines()] if markdown else [text]
        found.append(("markdown" if markdown else "code", "\n".join(lines).strip()))
    return found


def test_there_are_six() -> None:
    assert [path.stem[0] for path in SOURCES] == list("123456")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_what_is_stored_is_of_this_source(source: Path) -> None:
    stored = source.with_suffix(".ipynb")
    notebook = json.loads(stored.read_text(encoding="utf-8"))
    held = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]]
    assert held == cells(source.read_text(encoding="utf-8")), "run `make notebooks`"
    assert stored.stat().st_size < LARGEST
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "warnings name paths of one machine"
    assert any("image/png" in output.get("data", {}) for output in outputs), "a story with pictures"


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_each_runs_offline(source: Path, tmp_path: Path) -> None:
    script = source.read_text(encoding="utf-8").replace("from IPython.display import display", "display = print")
    environment = os.environ | {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
