"""README and the documentation: blocks that parse and run, links that lead somewhere, docstrings that say it all."""

import ast
import inspect
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import eigen_lightning as el
from eigen_lightning.api.configuration import shipped_folder
from eigen_lightning.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "notebooks" / "docs").rglob("*.md"))]
LIGHTNING = {"fit", "validate", "test", "predict"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_readme_is_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_are_python_with_public_names(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "el":
                assert node.attr in el.__all__, f"el.{node.attr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_configurations_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for command in re.findall(r"eigen-lightning ([a-z]+)\b", text):
        assert command in {*COMMANDS, *LIGHTNING}, command
    for name in re.findall(r"--config (?:configs/)?([a-z0-9_]+)(?:\.yaml)?(?=[\s`'\]])", text):
        assert (shipped_folder() / f"{name}.yaml").is_file() or name == "mine", name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", el.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    value = getattr(el, name)
    reference = (ROOT / "notebooks" / "docs" / "reference.md").read_text(encoding="utf-8")
    assert f":: {value.__module__}.{value.__qualname__}\n" in reference


@pytest.mark.parametrize("name", el.__all__)
def test_public_names_say_what_they_take_and_raise(name: str) -> None:
    value = getattr(el, name)
    assert value.__doc__, name
    function = value.__init__ if inspect.isclass(value) else value
    if not inspect.isfunction(function):  # a class that is made as Python makes any
        return
    text = (value.__doc__ or "") + (function.__doc__ or "")
    for parameter in list(inspect.signature(function).parameters.values())[inspect.isclass(value) :]:
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            assert re.search(rf"\b{parameter.name}\b", text), f"{name}({parameter.name})"
    if function.__module__.startswith("eigen_lightning") and "raise UserError" in inspect.getsource(function):
        assert "Raises:" in text, name


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sphinx") is None, reason="Sphinx is not installed: make docs installs it")
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "-q",
        "-b",
        "html",
        "-c",
        "notebooks/docs",
        "notebooks",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "docs" / "index.html").is_file()
