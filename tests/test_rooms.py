"""The order of the package's rooms, what loads Lightning, and the public names."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eigen_lightning as el

PACKAGE = Path(el.__file__).parent

BELOW = {
    "cli": {"api", "learning", "analysis", "directions", "targets", "data", "curvature", "report", "run"},
    "api": {"learning", "analysis", "directions", "targets", "data", "curvature", "report", "run"},
    "learning": {"analysis", "directions", "targets", "data", "curvature", "report", "run"},
    "analysis": {"directions", "data", "curvature", "report", "run"},
    "directions": {"curvature", "run"},
    "targets": {"data", "curvature", "run"},
    "data": {"report", "run"},
    "curvature": {"run"},
    "report": {"run"},
    "run": set(),
}
"""For each room, those it may import from."""

WITHOUT_LIGHTNING = ("analysis", "curvature", "directions", "report", "targets")

PUBLIC = {
    "TMS", "XOR", "Divergence", "FromLoader", "Grammar", "GrammarTransformer", "Network", "Run", "SampleStream",
    "SparseEigendecomposition", "TMSTarget", "Target", "TinyStories", "Transformer", "UserError", "XORTarget",
    "compare", "fit", "load", "study",
}  # fmt: skip


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every import in a file, in functions and for type checking too, absolute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            # `from eigen_lightning import data` names a room as well.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("room", BELOW)
def test_imports_go_downwards(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    upwards = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in files
        for line, name in imports(path)
        if name.startswith("eigen_lightning.") and name.split(".")[1] not in BELOW[room] | {room}
    ]
    assert not upwards


def test_no_circle_among_the_rooms() -> None:
    for room, below in BELOW.items():
        assert not [other for other in below if room in BELOW[other]]


@pytest.mark.parametrize("room", WITHOUT_LIGHTNING)
def test_nothing_of_lightning_where_a_finished_run_is_asked(room: str) -> None:
    names = [name for path in (PACKAGE / room).rglob("*.py") for _, name in imports(path)]
    assert not [name for name in names if name.partition(".")[0] in ("lightning", "pytorch_lightning")]


def test_every_room_is_known_and_the_root_holds_no_code() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(BELOW)
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == {"__init__.py", "__main__.py", "py.typed"}


def test_public_names() -> None:
    assert set(el.__all__) == PUBLIC


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = (
        "import sys, time; begun = time.process_time(); import eigen_lightning\n"
        "assert not {'torch', 'numpy', 'lightning', 'transformers'} & set(sys.modules)\n"
        "print(time.process_time() - begun)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.2
