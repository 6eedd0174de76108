"""report.html: read the run folder, fill the page, write it in one piece."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eigen_lightning.report import figures, text
from eigen_lightning.report.cards import gather
from eigen_lightning.report.circuit_figure import circuit_figure
from eigen_lightning.report.direction_map import direction_map
from eigen_lightning.report.ordering import clustered
from eigen_lightning.report.share_map import share_map
from eigen_lightning.report.verdict import verdict
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import Rows, isometric
from eigen_lightning.run.folder import RunFolder, write_atomically
from eigen_lightning.run.shared_folder import public_name

CLEAR_GAP = 1.4
"""How many times smaller the first gain that is no feature's must be for a number of features to be named."""

SHOWN_IN_MATRIX = 96
SHOWN_PAIRS = 8
SHOWN_PARAMETERS = 6

SCORES = {
    "mcc": "MCC with the truth",
    "matched": "features recovered",
    "selectivity": "selectivity",
    "uniqueness": "distinct top features",
    "mmcs": "MMCS",
    "context_states": "planted regularities found, in context",
    "states": "planted regularities found",
    "coverage": "coverage, of its bound",
    "normalized_steepness": "normalized steepness, held out",
    "train_normalized_steepness": "normalized steepness, training",
    "explained_by_labels": "explained by labels",
    "token_purity": "token purity",
    "previous_token_purity": "previous-token purity",
    "distinct_leading_tokens": "distinct leading tokens",
    "distinct_leading_contexts": "distinct leading contexts",
    "first_singular_share": "norm in the first singular pair",
    "head_share": "norm in the leading head",
    "explained_curvature": "explained curvature",
    "interference": "interference",
    "steepness": "steepness, held out",
    "largest_sample_share": "of it, one sample's",
    "dead": "dead directions",
    "duplicates": "duplicates",
    "twins": "alike in response",
}
CONTROLS = {
    "learned": "learned",
    "random": "random",
    "pca": "PCA",
    "oracle": "oracle",
    "random_network": "random network",
}


def write_report(run: RunFolder) -> Path:
    """Write ``report.html`` from what the run folder holds.

    Returns:
        Its path.

    Raises:
        UserError: where the folder holds no manifest or no directions.
    """
    for path in (run.manifest, run.directions):
        if not path.exists():
            raise UserError(
                f"expected a run folder with results, got {run.path}, which has no {path.name}: run `fit` there first"
            )
    write_atomically(run.report, render("report.html", **contents(run)).encode())
    return run.report


def direction_page(run: RunFolder, k: int) -> str:
    """Direction k's card of the report, as a page of its own."""
    values = contents(run)
    del values["own_labels"]
    return render("direction.html", **{**values, "card": values["cards"][k], "title": f"Direction {k}"})


def contents(run: RunFolder) -> dict[str, Any]:
    """What the template of the report is filled with."""
    manifest = run.read_json(run.manifest)
    scorecard = run.read_json(run.scorecard) if run.scorecard.exists() else {}
    interventions = run.read_json(run.interventions) if run.interventions.exists() else {}
    directions, shapes = run.read_directions()
    interference = np.load(run.interference).astype(float) if run.interference.exists() else None
    coactivity = np.load(run.coactivity).astype(float) if run.coactivity.exists() else None
    nothing = [{"direction": k, "examples": []} for k in range(len(directions))]
    cards = gather(
        run.read_top_examples() if run.top_examples.exists() else nothing,
        run.read_lines(run.cards) if run.cards.exists() else [],
        interventions,
        isometric(directions).double().numpy(),
        None if interference is None else interference.diagonal(),
        coactivity,
        _geometry(run, directions, shapes),
        scorecard,
        run.read_lines(run.vocabulary) if run.vocabulary.exists() else [],
    )
    return {
        "title": f"{run.path.resolve().name}: {manifest['n_directions']} directions",
        "own_labels": run.read_json(run.labels) if run.labels.exists() else {},
        # Labels belong to these directions, wherever the folder lies.
        "run_key": hashlib.sha256(run.directions.read_bytes()).hexdigest()[:16],
        "run_name": run.path.resolve().name,
        "manifest": manifest,
        "what": _what(manifest),
        "findings": verdict(manifest, scorecard, interventions, cards),
        "scores": _scores(scorecard),
        "controls": [(key, name) for key, name in CONTROLS.items() if key in scorecard],
        "cards": cards,
        "gains": _gains(manifest.get("curvature", {})),
        "interventions": interventions,
        "circuit": _circuit(run),
        "map": direction_map(
            [card.steepness for card in cards],
            [card.selectivity for card in cards],
            [card.label.get("text") or card.leader or "not named" for card in cards],
        ),
        "shares": share_map(directions, shapes, manifest.get("heads")),
        "config": run.config.read_text(encoding="utf-8") if run.config.exists() else "",
        **_matrix(interference, coactivity),
    }


def render(template: str, **values: Any) -> str:
    """Fill a template with the style and script inline, and a policy that lets nothing else run or load."""
    style, script = _asset("style.css"), _asset("script.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(style=Markup(style), script=Markup(script), policy=policy, **values)
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("eigen_lightning.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": text.as_text,
        "plain": text.as_plain_text,
        "shown_lines": lambda lines: Markup("\n").join(map(text.as_text, lines.split("\n"))),
        "number": text.number,
        "ratio": text.ratio,
        "fixed": text.fixed,
    }
    environment.globals |= {"LONG": text.LONG, "infinity": float("inf")}
    return environment


@cache
def _asset(name: str) -> str:
    return files("eigen_lightning.report").joinpath("templates", name).read_text(encoding="utf-8").strip()


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _what(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    target = manifest.get("target", {})
    each = [f"{name} {'×'.join(map(str, shape))}" for name, shape in manifest.get("parameters", {}).items()]
    shapes = ", ".join(each[:SHOWN_PARAMETERS])
    if len(each) > SHOWN_PARAMETERS:
        shapes += f" and {len(each) - SHOWN_PARAMETERS} more to {each[-1]}"
    epochs, seconds = manifest.get("epochs", 0), text.number(manifest.get("seconds"))
    facts = [
        ("network", public_name(str(target.get("name") or target.get("class", "")))),
        ("parameters", f"{shapes} ({manifest['n_parameters']:,} numbers)"),
        ("samples", str(manifest.get("data", {}).get("class", ""))),
        ("divergence", str(manifest.get("curvature", {}).get("divergence", ""))),
        ("trained for", f"{epochs} epochs, {manifest.get('steps', 0):,} steps, {seconds} s"),
    ]
    return [(name, value) for name, value in facts if value]


def _scores(scorecard: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of the scorecard: a title, and for each column a figure and its spread."""
    spread = scorecard.get("random_spread", {})
    rows = []
    # What only the target can tell comes last, under its own names.
    own = {name: name.replace("_", " ") for name in scorecard.get("learned", {}) if name not in SCORES}
    own = {name: title for name, title in own.items() if not name.endswith(("_low", "_high"))}
    for name, title in {**SCORES, **own}.items():
        if not any(name in scorecard.get(key, {}) for key in CONTROLS):
            continue
        row = []
        for key in (key for key in CONTROLS if key in scorecard):
            margin = f"± {text.number(spread[name], 2)}" if key == "random" and spread.get(name) else ""
            low, high = (scorecard[key].get(f"{name}_{end}") for end in ("low", "high"))
            if low is not None and high is not None and low == low:
                margin = f"{text.number(low, 3)} to {text.number(high, 3)}"
            row.append((text.number(scorecard[key].get(name)), margin))
        rows.append((title, row))
    return rows


def _gains(curvature: dict[str, Any]) -> dict[str, Any]:
    """The gains of the greedy choice as a picture, and what they say of the number of features."""
    gains = curvature.get("gains") or []
    if len(gains) < 2:
        return {}
    count = curvature["gains_above_a_tenth"]
    after = gains[count] if count < len(gains) else 0.0
    ratio = gains[count - 1] / after if after > 0 else float("inf")
    smooth = ratio < CLEAR_GAP or count == len(gains)
    says = (
        f"They fall smoothly: there is no number of features to read off ({count} are above a tenth of the first)."
        if smooth
        else f"{count} stand out: the next one is {'0' if after <= 0 else f'{ratio:.1f} times'} "
        f"{'' if after <= 0 else 'smaller'}".rstrip()
        + "."
    )
    sharing = curvature.get("sharing")
    if sharing is not None:
        says += (
            f" {sharing:.1f} of the climbed rows share a sample (median), so learning took {curvature['objective']}."
        )
    return {"bars": figures.bars(gains[: max(2 * count, 8)], 1.0), "says": says}


def _circuit(run: RunFolder) -> dict[str, Any]:
    """The directions joined over one text, as a figure, and what random directions set as the bar."""
    if not run.circuit.exists():
        return {}
    circuit = run.read_json(run.circuit)
    return {"figure": circuit_figure(circuit), "control": circuit["control"], "edges": len(circuit["edges"])}


def _matrix(interference: Any, coactivity: Any) -> dict[str, Any]:
    if interference is None:
        return {"matrix": Markup(""), "pairs": [], "matrix_note": ""}
    root = np.sqrt(np.maximum(interference.diagonal(), np.finfo(float).tiny))
    normalized = interference / root[:, None] / root
    together = np.eye(len(root)) if coactivity is None else coactivity
    steepest = np.sort(np.argsort(-interference.diagonal())[:SHOWN_IN_MATRIX])
    order = steepest[clustered(np.maximum(normalized, together)[np.ix_(steepest, steepest)])]
    rows, columns = np.tril_indices(len(root), -1)
    strongest = np.argsort(-np.maximum(normalized, together)[rows, columns])[:SHOWN_PAIRS]
    note = "" if len(order) == len(root) else f"The {len(order)} steepest of {len(root)} directions."
    return {
        "matrix": figures.heat_map(normalized, together, order) if len(order) > 1 else Markup(""),
        "pairs": [
            (
                int(rows[i]),
                int(columns[i]),
                float(normalized[rows[i], columns[i]]),
                float(together[rows[i], columns[i]]),
            )
            for i in strongest
        ],
        "matrix_note": note,
    }


def _geometry(run: RunFolder, directions: Rows, shapes: dict[str, tuple[int, ...]]) -> list[Markup] | None:
    if not run.target.exists() or "W" not in shapes:
        return None
    W = run.read_target()[0]["W"].double().numpy()
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    part = directions[:].split(sizes, dim=1)[list(shapes).index("W")]
    moved = part.reshape(-1, *shapes["W"]).double().numpy()
    if W.shape[0] < 2:
        return None
    if W.shape[0] > 2:
        # The plane in which the features spread most.
        plane = np.linalg.svd(W)[0][:, :2].T
        W, moved = plane @ W, np.einsum("ph,khf->kpf", plane, moved)
    return [figures.hidden_space(W, each) for each in moved]
