"""Wrong input anywhere: one line that says what was expected, what came and how to mend it; exit code 2."""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from eigen_lightning.cli.main import main
from tests.processes import CommandProcess
from tests.resume import runs
from tests.targets.conftest import save_tiny_model


class Place:
    """A finished TMS run, files of all kinds, and a folder to run in that holds results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished = folder / "finished"
        CommandProcess(runs.arguments(tms(), self.finished), folder / "finished.log").succeed()
        self.model = save_tiny_model(folder / "model", "gpt_neo")
        self.large = save_tiny_model(folder / "large", "gpt_neo", vocab_size=61, max_position_embeddings=4)
        words = " ".join(f"w{number}" for number in range(40))
        self.write("good.txt", "".join(f"{words} w{number}\n<|endoftext|>\n" for number in range(30)))
        self.write("empty.txt", "")
        self.write("short.txt", "w1 w2\n<|endoftext|>\n" * 20)
        self.write("one.txt", words)
        self.write("latin1.txt", "caf\u00e9\n" * 30, "latin-1")
        self.write("binary.txt", "a\0b" * 30)
        self.write("table.csv", "text\nw1 w2\n")
        self.write("broken.jsonl", '{"text": "w1 w2"}\n{"text": \n')
        self.write("untitled.jsonl", '{"story": "w1 w2"}\n' * 20)
        self.write("numbers.jsonl", '{"text": 5}\n' * 20)
        self.write("list.jsonl", "[1, 2]\n" * 20)
        self.write("damaged.parquet", "PAR1 no more")
        self.write("no_model/readme", "nothing here")
        self.write("no_weights/config.json", (self.model / "config.json").read_text())
        shutil.copytree(self.model, folder / "cut_off")
        weights = folder / "cut_off" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        shutil.copytree(self.model, folder / "no_tokenizer")
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (folder / "no_tokenizer" / name).unlink(missing_ok=True)
        self._wider_tokenizer()
        checkpoint = self.finished / "checkpoints" / "last.ckpt"
        (folder / "truncated.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
        whole = bytearray(checkpoint.read_bytes())
        whole[len(whole) // 2] ^= 255
        (folder / "flipped.ckpt").write_bytes(whole)
        torch.save({"weights": torch.zeros(3)}, folder / "foreign.ckpt")
        torch.save({"state_dict": Path("x")}, folder / "pickle.ckpt")
        self.write("text.ckpt", "not a checkpoint")

    def write(self, name: str, text: str, encoding: str = "utf-8") -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding=encoding)

    def _wider_tokenizer(self) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(models.WordLevel({f"w{i}": 30 + i for i in range(61)}, unk_token="w0"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(self.folder / "wider")

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)


def tms() -> dict[str, Any]:
    config = runs.tms()
    config["trainer"]["max_epochs"] = 1
    return config


def text(place: Place) -> dict[str, Any]:
    config = runs.text(place["good.txt"], place["model"])
    config["trainer"]["max_epochs"] = 1
    return config


class Bad(NamedTuple):
    """One wrong input: what to change in a good configuration, and what the message must say."""

    name: str
    says: tuple[str, ...]
    change: Callable[[Place], dict[str, Any]] = lambda place: {}
    args: Callable[[Place], list[str]] = lambda place: []
    kind: str = "tms"
    run_dir: str | None = None
    overwrite: bool = True


def fields(**changes: Any) -> Callable[[Place], dict[str, Any]]:
    """Changes that do not depend on the place; ``__`` goes down a level."""
    return lambda place: {key.replace("__", "."): value for key, value in changes.items()}


def source(name: str) -> Callable[[Place], dict[str, Any]]:
    return lambda place: {"data.init_args.source": place[name]}


def target(name: str) -> Callable[[Place], dict[str, Any]]:
    return lambda place: {"model.target.init_args.name": place[name]}


def checkpoint(name: str) -> Callable[[Place], list[str]]:
    return lambda place: ["--ckpt_path", place[name]]


def resumed(place: Place) -> list[str]:
    return ["--ckpt_path", str(place.finished / "checkpoints" / "last.ckpt")]


TARGET, DATA = "model__target__init_args__", "data__init_args__"
TABLE = [
    # the YAML itself: types, ranges, unknown names
    Bad("K is a word", ("n_directions", "five"), fields(model__n_directions="five")),
    Bad("K is a fraction", ("n_directions", "2.5"), fields(model__n_directions=2.5)),
    Bad("K is zero", ("n_directions of at least 1", "got 0"), fields(model__n_directions=0)),
    Bad("lambda is negative", ("interference_weight of at least 0", "-1"), fields(model__interference_weight=-1.0)),
    Bad("lambda is no number", ("interference_weight", "nan"), fields(model__interference_weight=float("nan"))),
    Bad("rows is zero", ("rows of at least 1", "got 0"), fields(model__rows=0)),
    Bad("unknown key", ("n_direction",), fields(model__n_direction=3)),
    Bad("unknown section", ("modle",), fields(modle={"n_directions": 3})),
    Bad("unknown target", ("TMSTargt",), fields(model__target__class_path="TMSTargt")),
    Bad("unknown data", ("TinyStory",), fields(data__class_path="TinyStory")),
    Bad("unknown callback", ("Interferences",), fields(trainer__callbacks=[{"class_path": "Interferences"}])),
    Bad("unknown field of a target", ("hiden",), fields(**{TARGET + "hiden": 3})),
    Bad("unknown divergence", ("msee",), fields(model__divergence="msee")),
    Bad("unknown curvature", ("newton",), fields(model__curvature="newton")),
    Bad("unknown optimizer", ("Adamm",), fields(model__stage2={"class_path": "torch.optim.Adamm"})),
    Bad("normalization power", ("power in [0, 1]", "got 2"), fields(model__normalization={"power": 2.0})),
    Bad("no samples to start from", ("start.samples", "at least 1"), fields(model__start={"samples": 0})),
    Bad(
        "momentum",
        ("momentum in [0, 1)", "1.5"),
        args=lambda _: ["--model.stage1=PolarAscent", "--model.stage1.momentum=1.5"],
    ),
    Bad("seed is a word", ("seed_everything", "abc"), fields(seed_everything="abc")),
    Bad("epochs are a word", ("max_epochs", "many"), fields(trainer__max_epochs="many")),
    Bad(
        "examples are zero",
        ("n_examples of at least 1",),
        fields(trainer__callbacks=[{"class_path": "TopExamples", "init_args": {"n_examples": 0}}]),
    ),
    Bad(
        "save every zero steps",
        ("every_n_steps of at least 1",),
        fields(trainer__callbacks=[{"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 0}}]),
    ),
    Bad("configuration is missing", ("nowhere.yaml",), args=lambda place: ["--config", place["nowhere.yaml"]]),
    Bad("configuration is no YAML", ("broken.yaml",), args=lambda place: ["--config", place["broken.yaml"]]),
    Bad("configuration is binary", ("binary.yaml",), args=lambda place: ["--config", place["binary.yaml"]]),
    # samples
    Bad("batch of zero", ("batch_size of at least 1",), fields(**{DATA + "batch_size": 0})),
    Bad("fewer samples than a batch", ("batch of 32", "got 8"), fields(**{DATA + "samples_per_epoch": 8})),
    Bad("negative workers", ("num_workers of at least 0",), fields(**{DATA + "num_workers": -1})),
    Bad("probability of samples", ("probability in (0, 1]", "1.5"), fields(**{DATA + "probability": 1.5})),
    Bad("other features than the target's", ("[batch, 5]", "6"), fields(**{DATA + "features": 6})),
    Bad("missing text", ("nowhere.txt",), source("nowhere.txt"), kind="text"),
    Bad("near name of a text", ("did you mean good.txt",), source("goood.txt"), kind="text"),
    Bad("empty text", ("empty",), source("empty.txt"), kind="text"),
    Bad("text in another encoding", ("UTF-8", "0xe9"), source("latin1.txt"), kind="text"),
    Bad("binary text", ("NUL byte",), source("binary.txt"), kind="text"),
    Bad("unknown kind of file", (".txt, .jsonl, .parquet",), source("table.csv"), kind="text"),
    Bad("broken JSON", ("line 2",), source("broken.jsonl"), kind="text"),
    Bad("JSON without the column", ("'text'", "story"), source("untitled.jsonl"), kind="text"),
    Bad("numbers for text", ("got int",), source("numbers.jsonl"), kind="text"),
    Bad("lists for objects", ("got a list",), source("list.jsonl"), kind="text"),
    Bad("damaged parquet", ("damaged.parquet",), source("damaged.parquet"), kind="text"),
    Bad("stories shorter than a window", ("at least 8 tokens",), source("short.txt"), kind="text"),
    Bad("nothing to hold out", ("at least one",), source("one.txt"), kind="text"),
    Bad("window of one token", ("context_length of at least 2",), fields(**{DATA + "context_length": 1}), kind="text"),
    Bad("window beyond the context", ("at most 32", "got 40"), fields(**{DATA + "context_length": 40}), kind="text"),
    Bad("held-out share", ("heldout_fraction in (0, 1)",), fields(**{DATA + "heldout_fraction": 1.5}), kind="text"),
    Bad(
        "tokenizer of another vocabulary",
        ("token ids from 0 to 60",),
        lambda place: {"data.init_args.tokenizer": place["wider"]},
        kind="text",
    ),
    Bad("missing tokenizer", ("tokenizer",), lambda place: {"data.init_args.tokenizer": place["nowhere"]}, kind="text"),
    # targets
    Bad("pattern that matches nothing", ("weigth", "W, b"), fields(**{TARGET + "parameters": ["weigth"]})),
    Bad("no hidden dimension", ("hidden",), fields(**{TARGET + "hidden": 0})),
    Bad(
        "parameters without curvature",
        ("zero curvature",),
        fields(**{TARGET + "parameters": ["W"], DATA + "probability": 1e-12, DATA + "empty_samples": True}),
    ),
    Bad("missing model", ("nowhere",), target("nowhere"), kind="text"),
    Bad("folder without a model", ("config.json",), target("no_model"), kind="text"),
    Bad("model without weights", ("no weights",), target("no_weights"), kind="text"),
    Bad("model cut off", ("cut_off",), target("cut_off"), kind="text"),
    Bad("model without a tokenizer", ("tokenizer",), target("no_tokenizer"), kind="text"),
    Bad(
        "near name of a parameter",
        ("blocks.1.attn.W_K",),
        fields(**{TARGET + "parameters": ["blocks.1.attn.W_k"]}),
        kind="text",
    ),
    Bad(
        "dropout that evaluation leaves on",
        ("same outputs twice", "dropout"),
        fields(model__target={"class_path": "tests.unruly.DropsOut"}, **{DATA + "features": 5}),
    ),
    Bad(
        "a model that is not a number",
        ("finite outputs",),
        fields(model__target={"class_path": "tests.unruly.NotANumber"}, **{DATA + "features": 5}),
    ),
    # the Trainer
    Bad("clipping", ("gradient_clip_val", "manual"), fields(trainer__gradient_clip_val=1.0)),
    Bad("accumulation", ("accumulate_grad_batches",), fields(trainer__accumulate_grad_batches=2)),
    Bad("half precision", ("16-mixed",), fields(trainer__precision="16-mixed")),
    Bad("overfitting", ("overfit_batches",), fields(trainer__overfit_batches=1)),
    Bad("unknown strategy", ("dpp",), fields(trainer__strategy="dpp")),
    Bad("unknown accelerator", ("gpuu",), fields(trainer__accelerator="gpuu")),
    Bad("validation beyond an epoch", ("val_check_interval",), fields(trainer__val_check_interval=2.5)),
    # run folders and checkpoints
    Bad("folder of another run", ("--overwrite",), overwrite=False),
    Bad("folder is a file", ("run folder",), run_dir="good.txt"),
    Bad("folder that cannot be written", ("run folder",), run_dir="/proc/nowhere"),
    Bad("missing checkpoint", ("nowhere.ckpt",), args=checkpoint("nowhere.ckpt")),
    Bad("truncated checkpoint", ("truncated",), args=checkpoint("truncated.ckpt")),
    Bad("flipped bit in a checkpoint", ("checkpoint",), args=checkpoint("flipped.ckpt")),
    Bad("text for a checkpoint", ("truncated file or one of another kind",), args=checkpoint("text.ckpt")),
    Bad("checkpoint of another program", ("another program",), args=checkpoint("foreign.ckpt")),
    Bad("pickle for a checkpoint", ("primitives and tensors",), args=checkpoint("pickle.ckpt")),
    Bad(
        "checkpoint of another target",
        ("model.target",),
        fields(**{TARGET + "parameters": ["W"]}),
        resumed,
    ),
    Bad("checkpoint of other samples", ("checkpoint's samples",), fields(**{DATA + "heldout_samples": 32}), resumed),
    Bad("checkpoint of another batch size", ("batch_size of 32",), fields(**{DATA + "batch_size": 16}), resumed),
    Bad("checkpoint of another K", ("n_directions of 5", "got 4"), fields(model__n_directions=4), resumed),
    Bad(
        "checkpoint of another optimizer",
        ("model.stage1", "Adam"),
        fields(model__stage1={"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}),
        resumed,
    ),
    Bad("unknown command", ("fitt",), args=lambda _: ["fitt"]),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("bad_input"))
    made.write("broken.yaml", "model: [1, 2\n")
    (made.folder / "binary.yaml").write_bytes(bytes(range(256)))
    return made


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(config)
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner = config
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return config


@pytest.fixture
def _environment() -> Iterator[None]:
    """Lightning leaves the seed in the environment."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
@pytest.mark.usefixtures("_environment")
def test_wrong_input_is_one_line_and_touches_nothing(
    place: Place, tmp_path: Path, bad: Bad, capfd: pytest.CaptureFixture[str]
) -> None:
    base = tms() if bad.kind == "tms" else text(place)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed(base, bad.change(place))))
    run = tmp_path / "run"
    shutil.copytree(place.finished, run)
    folder = run if bad.run_dir is None else place.folder / bad.run_dir
    args = ["fit", "--config", str(tmp_path / "config.yaml"), *bad.args(place)]
    args += ["--run_dir", str(folder), "--quiet", "true", "--trainer.accelerator", "cpu"]
    args += ["--overwrite", "true"] if bad.overwrite else []
    if bad.name == "unknown command":
        args = ["fitt"]
    if bad.name == "unknown accelerator":
        args.remove("--trainer.accelerator")
        args.remove("cpu")
    before, elsewhere = contents(run), contents(place.folder)
    with pytest.raises(SystemExit) as stopped:
        main(args)
    error = capfd.readouterr().err
    lines = [line for line in error.splitlines() if "error:" in line]
    assert stopped.value.code == 2, error
    assert len(lines) == 1, error
    assert "Traceback" not in error
    for words in bad.says:
        assert words in lines[0], lines[0]
    assert contents(run) == before
    assert contents(place.folder) == elsewhere


def test_the_table_is_long_enough() -> None:
    assert len({bad.name for bad in TABLE}) == len(TABLE) >= 40


def test_debug_shows_where(place: Place, tmp_path: Path) -> None:
    from eigen_lightning.run.errors import UserError

    (tmp_path / "config.yaml").write_text(json.dumps(changed(tms(), {"model.n_directions": 0})))
    with pytest.raises(UserError, match="n_directions"):
        main(["fit", "--debug", "--config", str(tmp_path / "config.yaml"), "--run_dir", str(tmp_path / "run")])
