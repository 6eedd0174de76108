"""Small runs of every kind of samples, and what of a finished run must not depend on how often it was stopped."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

CALLBACKS = [{"class_path": "Interference"}, {"class_path": "TopExamples", "init_args": {"n_examples": 5}}]


def trainer(**options: Any) -> dict[str, Any]:
    return {"max_epochs": 2, "log_every_n_steps": 3, "accelerator": "cpu", "callbacks": CALLBACKS, **options}


def tms(**options: Any) -> dict[str, Any]:
    data = {"batch_size": 32, "samples_per_epoch": 320, "heldout_samples": 64, "values_per_feature": 4, **options}
    return {
        "seed_everything": 0,
        "model": {
            "target": {"class_path": "TMSTarget"},
            "n_directions": 5,
            "start": {"steps": 3, "samples": 64},
            "normalization": {"power": 0.5},
        },
        "data": {"class_path": "TMS", "init_args": data},
        "trainer": trainer(),
    }


def xor(**options: Any) -> dict[str, Any]:
    """As published in form: two optimizers, no start, so that stage 2 and Adam are there to be resumed."""
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
    return {
        "seed_everything": 1,
        "model": {
            "target": {"class_path": "XORTarget"},
            "n_directions": 3,
            "stage1": adam,
            "stage2": adam,
            "start": None,
            "objective": "steepness",
            "exponent": 2.0,
            "interference_weight": 1.0,
            "normalization": {"power": 0.0},
        },
        "data": {"class_path": "XOR", "init_args": {"batch_size": 8, "samples_per_epoch": 80, **options}},
        "trainer": trainer(),
    }


def text(source: str, model: str, **options: Any) -> dict[str, Any]:
    data = {
        "source": source,
        "context_length": 8,
        "n_sequences": 24,
        "n_heldout_sequences": 8,
        "batch_size": 4,
        **options,
    }
    target = {"name": model, "parameters": ["blocks.1.attn.W_K"]}
    return {
        "seed_everything": 2,
        "model": {
            "target": {"class_path": "Transformer", "init_args": target},
            "n_directions": 3,
            "start": {"steps": 1, "samples": 4},
            "normalization": {"power": 0.5, "probes": 2, "exact_up_to": 16},
        },
        "data": {"class_path": "TinyStories", "init_args": data},
        "trainer": trainer(),
    }


def arguments(config: dict[str, Any], folder: Path, *more: str) -> list[str]:
    """A command line for the configuration, its run folder beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    return ["fit", "--config", str(file), "--run_dir", str(folder), "--quiet", "true", *more]


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a run leaves that a person or a script reads, times and paths aside."""
    files = {}
    for name in ("metrics.csv", "top_examples.jsonl", "interference.npy", "scorecard.json"):
        if (folder / name).exists():
            files[name] = (folder / name).read_bytes()
    # The order of a safetensors file's metadata is left to chance.
    with safe_open(folder / "directions.safetensors", framework="numpy") as file:
        files["directions.safetensors"] = (file.get_tensor("U").tobytes(), file.metadata())
    manifest = json.loads((folder / "manifest.json").read_text())
    for key in ("updated", "seconds", "cpu_seconds", "command", "git_revision"):
        manifest.pop(key, None)
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    run = checkpoint.pop("run")
    return {
        **files,
        "manifest": manifest,
        "state_dict": flat(checkpoint["state_dict"]),
        "optimizer_states": flat(checkpoint["optimizer_states"]),
        "progress": (checkpoint["epoch"], checkpoint["global_step"], run["batches_that_stepped"]),
        "random_state": flat(run["random_state"]),
        "tensorboard": events(folder / "tensorboard"),
    }


def flat(state: Any, path: str = "") -> dict[str, Any]:
    """Nested state as one dictionary, tensors as bytes."""
    if isinstance(state, dict):
        return {key: value for name, item in state.items() for key, value in flat(item, f"{path}/{name}").items()}
    if isinstance(state, list | tuple):
        return {key: value for at, item in enumerate(state) for key, value in flat(item, f"{path}/{at}").items()}
    return {path: state.numpy().tobytes() if isinstance(state, torch.Tensor) else state}


def events(folder: Path) -> list[tuple[str, int, bytes]]:
    """(tag, step, content) of all events in all files, as they lie on disk: nothing is purged by a reader."""
    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            found += [(value.tag, event.step, value.SerializeToString()) for value in event.summary.value]
    return sorted(found)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Which parts of two outcomes differ."""
    return [name for name in one if one[name] != other[name]]


def largest_difference(one: Path, other: Path) -> dict[str, float]:
    """Largest difference of two runs' numbers, by file; relative where they are above 1."""
    directions = [load_file(folder / "directions.safetensors")["U"] for folder in (one, other)]
    found = {"U": float(np.abs(directions[0] - directions[1]).max())}
    matrices = [np.load(folder / "interference.npy") for folder in (one, other)]
    found["interference"] = float((np.abs(matrices[0] - matrices[1]) / np.maximum(1, np.abs(matrices[0]))).max())
    tables = [list(csv.DictReader((folder / "metrics.csv").read_text().splitlines())) for folder in (one, other)]
    assert [list(row) for row in tables[0]] == [list(row) for row in tables[1]]
    cells = [
        (float(mine[key]), float(theirs[key]))
        for mine, theirs in zip(*tables, strict=True)
        for key in mine
        if mine[key] or theirs[key]
    ]
    found["metrics"] = max(abs(mine - theirs) / max(1.0, abs(mine)) for mine, theirs in cells)
    texts = [(folder / "top_examples.jsonl").read_text(encoding="utf-8") for folder in (one, other)]
    lines = [[json.loads(line) for line in text.split("\n") if line] for text in texts]
    values = 0.0
    for mine, theirs in zip(*lines, strict=True):
        for key in mine:
            if key == "direction":
                continue
            assert [e["sample_id"] for e in mine[key]] == [e["sample_id"] for e in theirs[key]]
            pairs = [(a["value"], b["value"]) for a, b in zip(mine[key], theirs[key], strict=True)]
            values = max([values, *(abs(a - b) / max(1.0, abs(a)) for a, b in pairs)])
    found["top_examples"] = values
    return found
