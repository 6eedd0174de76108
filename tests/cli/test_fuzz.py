"""Broken configurations drawn from the shipped ones: each is one line on stderr, exit code 2, and leaves nothing."""

import copy
import hashlib
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from eigen_lightning.cli.main import main
from tests.targets.conftest import save_tiny_model

# Real processes and many parsers: minutes on two cores, and rarely broken.
pytestmark = pytest.mark.slow

# Overlays, which vary a shape, are no configurations by themselves.
CONFIGS = sorted(
    path for path in (Path(__file__).parents[2] / "configs").glob("*.yaml") if "\ndata:" in path.read_text()
)
FAST, ALL = 40, 300
SMALL = {"samples_per_epoch": 256, "batch_size": 64, "n_sequences": 64, "n_heldout_sequences": 16, "context_length": 8}

Config = dict[str, Any]
Key = tuple[str | int, ...]
Break = Callable[[Config, random.Random], str]


class NotBroken(Exception):  # noqa: N818 - no error
    """What was drawn is a configuration that runs."""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    save_tiny_model(folder / "model", "gpt_neo")
    words = " ".join(f"w{number}" for number in range(40))
    (folder / "stories.txt").write_text("".join(f"{words} w{k}\n<|endoftext|>\n" for k in range(30)))
    return folder


def shipped(path: Path, texts: Path) -> Config:
    """A shipped configuration, made small, with text and a network that are here."""
    config = yaml.safe_load(path.read_text())
    arguments = config["data"]["init_args"]
    arguments.update({name: value for name, value in SMALL.items() if name in arguments})
    target = config["model"]["target"]
    if "name" in target["init_args"]:
        target["init_args"].update(name=str(texts / "model"), parameters=["blocks.1.attn.W_K"])
        arguments["source"] = str(texts / "stories.txt")
    if "hidden" in target["init_args"]:
        target["init_args"].update(features=5, hidden=2)
        arguments["features"] = 5
    config["model"].update(n_directions=2)
    config["trainer"]["max_epochs"] = 1
    return config


def keys(config: Any, at: Key = ()) -> Iterator[Key]:
    """Every place in a configuration, leaves and what holds them."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from keys(value, (*at, key))


def value_at(config: Any, key: Key) -> Any:
    for part in key:
        config = config[part]
    return config


def put(config: Any, key: Key, value: Any) -> str:
    value_at(config, key[:-1])[key[-1]] = value
    return f"{'.'.join(map(str, key))} = {value!r}"


# ---------------------------------------------------------------------------------------------------- ways of breaking


def wrong_type(config: Config, draw: random.Random) -> str:
    key = draw.choice([key for key in keys(config) if key[-1] not in ("class_path",)])
    value = value_at(config, key)
    if isinstance(value, bool | int | float):
        wrong = draw.choice(["many", "1.5.2", [1, 2], {"a": 1}])
    elif isinstance(value, str):
        wrong = draw.choice([{"a": 1}, [1, [2]]])
    elif value is None:
        wrong = draw.choice([{"a": 1}, [[1]]])
    else:
        wrong = draw.choice([17, 0.5, "a word"])
    return put(config, key, wrong)


def out_of_range(config: Config, draw: random.Random) -> str:
    numbers = [key for key in keys(config) if type(value_at(config, key)) in (int, float)]
    key = draw.choice(numbers)
    if key[-1] == "max_epochs":
        return put(config, key, -draw.randint(2, 9))
    bad: list[Any] = [-draw.randint(1, 9), -draw.random(), float("nan"), float("-inf")]
    return put(config, key, draw.choice(bad))


def missing_file(config: Config, draw: random.Random) -> str:
    paths = [key for key in keys(config) if key[-1] in ("name", "source", "heldout", "tokenizer")]
    if not paths:
        raise NotBroken
    nowhere = draw.choice(["/nowhere/at/all", "./not_here.txt", "not_here.jsonl", "/proc/nowhere.parquet", ""])
    return put(config, draw.choice(paths), nowhere)


def unknown_key(config: Config, draw: random.Random) -> str:
    holders = [key for key in ((), *keys(config)) if isinstance(value_at(config, key), dict)]
    holder = draw.choice(holders)
    held = value_at(config, holder)
    word = draw.choice(list(held))
    at = draw.randrange(len(word))
    misspelt = draw.choice([word[:at] + word[at] * 2 + word[at + 1 :], word[:at] + "x" + word[at + 1 :], "qq", "a b"])
    if misspelt in held:
        raise NotBroken
    if draw.random() < 0.5:
        return put(config, (*holder, misspelt), held.pop(word))
    return put(config, (*holder, misspelt), draw.choice([1, "x", None, [1], {"a": 1}]))


def unknown_class(config: Config, draw: random.Random) -> str:
    key = draw.choice([key for key in keys(config) if key[-1] == "class_path"])
    name = value_at(config, key)
    wrong = [name + "s", name[:-1], name.lower(), f"nowhere.{name}", f"torch.nn.{name}Not", "", "a b", "os.path", "42"]
    return put(config, key, draw.choice(wrong))


BREAKS: list[Break] = [wrong_type, out_of_range, missing_file, unknown_key, unknown_class]


def truncated(text: str, draw: random.Random) -> str:
    """A file that was cut off before it came to the samples."""
    return text[: draw.randrange(1, text.index("\ndata:") + len("\ndata"))]


def broken(number: int, texts: Path) -> tuple[str, str]:
    """The configuration of a number, and what was done to it."""
    draw = random.Random(number)
    while True:
        path = draw.choice(CONFIGS)
        config = shipped(path, texts)
        if draw.random() < 0.15:
            return truncated(yaml.safe_dump(config, sort_keys=False), draw), f"{path.stem}: cut off"
        whole = copy.deepcopy(config)
        how = draw.choice(BREAKS)
        try:
            done = how(config, draw)
        except NotBroken:
            continue
        if config != whole:
            return yaml.safe_dump(config, sort_keys=False), f"{path.stem}: {how.__name__}: {done}"


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Lightning leaves the seed in the environment; what has no run folder of its own would write here."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=[pytest.mark.slow] if number >= FAST else []) for number in range(ALL)]
)
@pytest.mark.usefixtures("_environment")
def test_a_broken_configuration_is_one_line_and_leaves_nothing(
    texts: Path, tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(number)
    text, done = broken(number, texts)
    (tmp_path / "config.yaml").write_text(text)
    before, elsewhere = contents(tmp_path), contents(texts)
    args = ["fit", "--config", "config.yaml", "--run_dir", "runs/new", "--quiet", "--trainer.accelerator=cpu"]
    with pytest.raises(SystemExit) as stopped:
        main([*args, "--report=false"])
    said = capfd.readouterr().err
    assert stopped.value.code == 2, f"{done}\n{said}"
    lines = [line for line in said.splitlines() if line and not re.match(r"WARNING|INFO| ", line)]
    assert len(lines) == 1, f"{done}\n{said}"
    assert lines[0].startswith("eigen-lightning: error: "), f"{done}\n{said}"
    assert contents(tmp_path) == before, done
    assert contents(texts) == elsewhere, done
