"""Run folders with made-up results, written through the package's own writers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from eigen_lightning.curvature.parameters import ParameterSpace
from eigen_lightning.run.folder import RunFolder

WORDS = [" the", " little", " dog", " ran", " to", " her", " mom", ".", "↵", " and", " a", " big", " was", " said"]

HOSTILE = [
    '<script>document.title="owned"</script>',
    '"><img src=x onerror=document.title="owned">',
    "</title></style></script><b>bold</b>",
    "' onmouseover='document.title=1",
    "{{ 7*7 }}{% raw %}",
    "\u202egnirts desrever\u202c",
    "\u2066iso\u2069\u200f",
    "a\u2028b\u2029c\x85d",
    "\x00\x1b[31m\x07",
    "]]><!--",
    "&lt;script&gt;&amp;",
    "x" * 10_000,
    "javascript:alert(1)",
    "\ufeff\u200b",
]


def make_run(
    path: Path, kind: str = "text", directions: int = 8, examples: int = 20, words: list[str] | None = None
) -> RunFolder:
    """A finished run of a kind: ``text``, ``tms`` or ``xor``."""
    chance = np.random.default_rng(20260)
    run = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    space = {
        "text": ParameterSpace(("blocks.4.attn.W_K",), ((16, 16),)),
        "tms": ParameterSpace(("W", "b"), ((2, 5), (5,))),
        "xor": ParameterSpace(("weight", "bias"), ((2, 2), (2,))),
    }[kind]
    U = torch.nn.functional.normalize(torch.from_numpy(chance.standard_normal((directions, space.size))).float(), dim=1)
    run.write_directions(U, space.shape_of)
    product = np.exp(chance.standard_normal((directions, directions)))
    product = (product + product.T) / 20
    np.fill_diagonal(product, 10 + np.arange(directions))
    run.write_interference(torch.from_numpy(product))
    root = np.sqrt(product.diagonal())
    run.write_matrix(run.coactivity, torch.from_numpy(product / root / root[:, None]))
    make = {"text": _text, "tms": _toy, "xor": _toy}[kind]
    lines, cards, effects = make(chance, kind, directions, examples, words or WORDS)
    run.write_top_examples(lines)
    run.write_lines(run.cards, cards)
    if kind == "tms":
        run.write_target({"W": torch.randn(2, 5), "b": torch.zeros(5)}, {"seed": 0})
    run.write_json(run.interventions, _interventions(directions, effects))
    figures = {
        "normalized_steepness": 2.5,
        "train_normalized_steepness": 3.0,
        "steepness": 2.5,
        "interference": 0.01,
        "dead": 0,
        "duplicates": 0,
    }
    card: dict[str, Any] = {name: dict(figures) for name in ("learned", "random", "pca")}
    if kind != "text":
        for name, matched in (("learned", 5), ("random", 0), ("pca", 1)):
            card[name] |= {"mcc": 0.99, "matched": matched}
        card["oracle"] = figures | {"mcc": 1.0, "matched": 5}
    run.write_json(run.scorecard, card)
    run.write_json(run.manifest, _manifest(kind, space, directions, (words or ["tms"])[0]))
    run.config.write_text(f"seed_everything: 0\n# {(words or [''])[0]}\n", encoding="utf-8")
    return run


def _manifest(kind: str, space: ParameterSpace, directions: int, word: str) -> dict[str, Any]:
    return {
        "status": "complete",
        "command": f"eigen-lightning fit --config '{word}'",
        "seed": 0,
        "updated": "2026-01-01T00:00:00+00:00",
        "seconds": 12.5,
        "epochs": 2,
        "steps": 32,
        "n_directions": directions,
        "n_parameters": space.size,
        "parameters": dict(zip(space.names, space.shapes, strict=True)),
        "target": {"class": kind, "name": word},
        "target_fingerprint": "ab" * 32,
        "curvature": {"divergence": "KL"},
        "data": {"class": kind},
        "data_fingerprint": "cd" * 32,
        "git_revision": None,
        "versions": {"python": "3.11", "torch": "2.13"},
    }


def _histogram() -> dict[str, Any]:
    return {"log10_edges": [-3.0, -2.8, -2.6, -2.4], "counts": [5, 100, 3], "below": 40, "samples": 148}


def _text(chance: Any, kind: str, directions: int, examples: int, words: list[str]) -> tuple[list, list, Any]:
    lines, cards = [], []
    for k in range(directions):
        shown, contexts = [], []
        for rank in range(examples):
            tokens = [words[i] for i in chance.integers(len(words), size=16)]
            tokens[9] = words[(k + rank // 8) % len(words)]
            values = (chance.random(16) ** 6).round(4).tolist()
            values[9] = 9.0 - rank / 4
            sample = 1000 + rank * directions + k
            place = {"sample_id": sample, "position": 9}
            parts = {"before": "".join(tokens[:9]), "token": tokens[9], "after": "".join(tokens[10:14])}
            shown.append({"value": values[9], **place, "text": "".join(parts.values()), **parts})
            contexts.append({**place, "tokens": tokens, "values": values})
        lines.append({"direction": k, "examples": shown})
        cards.append({"direction": k, "histogram": _histogram(), "contexts": contexts})

    def effects(k: int) -> dict[str, Any]:
        listed = [{"token": word, "change": 1.0, "before": 0.1, "after": 0.2} for word in words[:8]]
        guess = [[word, 0.3] for word in words[:3]]
        example = lines[k]["examples"][0]
        return {
            "delta": 0.5,
            "tokens": {sign: {"rise": listed, "fall": listed} for sign in ("plus", "minus")},
            "predictions": [{"text": example["before"], "before": guess, "plus": guess, "minus": guess}],
        }

    return lines, cards, effects


def _toy(chance: Any, kind: str, directions: int, examples: int, words: list[str]) -> tuple[list, list, Any]:
    width = 5 if kind == "tms" else 2
    inputs = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    lines = []
    for k in range(directions):
        shown = []
        for rank in range(examples if kind == "tms" else 4):
            given = np.eye(5)[k % 5] * (1 - rank / 100) if kind == "tms" else np.roll(inputs, -k, axis=0)[rank]
            shown.append({"value": 2.0 - rank / 20, "sample_id": rank, "input": given.tolist()})
        lines.append({"direction": k, "examples": shown})
        if kind == "tms":
            lines[-1]["single_feature"] = shown[:3]
    cards = [{"direction": k, "histogram": _histogram(), "contexts": []} for k in range(directions)]

    def effects(k: int) -> dict[str, Any]:
        row = {"value": 2.0, "before": [0.5] * width, "plus": [0.7] * width, "minus": [0.2] * width}
        return {"delta": 0.3, "outputs": [{"input": example["input"], **row} for example in lines[k]["examples"][:4]]}

    return lines, cards, effects


def _interventions(directions: int, effects: Any) -> dict[str, Any]:
    positive = np.logspace(-2, 0, 7)
    deltas = np.concatenate([-positive[::-1], positive])
    lines = []
    for k in range(directions):
        predicted = deltas**2
        lines.append(
            {
                "direction": k,
                "deltas": deltas.tolist(),
                "predicted": predicted.tolist(),
                "top": (predicted * (1 + 0.2 * deltas)).tolist(),
                "random": (predicted / (30 + k)).tolist(),
                "control_top": (predicted / 1000).tolist(),
                "control_random": (predicted / 1100).tolist(),
                # The first moves nothing at all on its random samples.
                "selectivity": 30.0 + k if k else None,
                "control_selectivity": 1.1,
                "departure": (0.2 * deltas).tolist(),
                "departs_at": 0.5 if k % 2 else None,
                "asymmetry": (0.2 * positive).tolist(),
                "reference_delta": 0.1,
                "reference_asymmetry": 0.02,
                "effects": effects(k),
            }
        )
    return {
        "n_examples": 20,
        "n_directions": len(lines),
        "matched": True,
        "controls": 4,
        "predicted_span": [1e-4, 1.0],
        "reference": 1e-2,
        "median_selectivity": 34.0,
        "median_control_selectivity": 1.1,
        "directions": lines,
    }
