"""Run the notebooks and keep their outputs: each ``N_name.py`` becomes ``N_name.ipynb`` beside it.

python notebooks/build.py [NAME ...]        # all of them where none is named
"""

import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from rich.console import Console

HERE = Path(__file__).parent
SECONDS = 300


def sources(names: list[str]) -> list[Path]:
    """The notebooks' sources, in order."""
    return [path for path in sorted(HERE.glob("[0-9]_*.py")) if not names or path.stem in names]


def built(source: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of a run in a folder of its own."""
    notebook = jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    for number, cell in enumerate(notebook.cells):
        # Nothing in the file that differs between two equal runs but its outputs.
        cell["id"] = f"cell-{number}"
        cell["metadata"] = {}
        if cell.cell_type == "code":
            # Warnings of libraries about the terminal that there is none of.
            cell["outputs"] = [each for each in cell["outputs"] if each.get("name") != "stderr"]
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main(names: list[str]) -> None:
    """Build the notebooks named."""
    # The documents hold no progress bars.
    os.environ["TQDM_DISABLE"] = "1"
    console = Console()
    for source in sources(names):
        console.print(f"running {source.name}")
        nbformat.write(built(source), source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
