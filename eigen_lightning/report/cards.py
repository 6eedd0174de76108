"""What a direction's card shows, gathered from the run folder."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from eigen_lightning.report import figures
from eigen_lightning.report.text import level, number, one_line, ratio

FEW_SAMPLES = 20
"""Samples below which a histogram says less than the list of them."""

TOKENS_BEFORE, TOKENS_AFTER = 47, 16
"""Of a long window, how much is shown around the activating token."""

MOST_BARS = 64
"""Numbers of an input that are drawn as bars."""

TOKENS_A_PAGE = 60_000
"""Shaded tokens on one page at most; the page stays below 5 MB."""

SET_NAMES = {"examples": "held out", "single_feature": "single feature on"}


@dataclass(frozen=True)
class Badge:
    """A word on a direction's health, and the numbers behind it."""

    name: str
    why: str


@dataclass(frozen=True)
class Token:
    """One token of a context.

    Attributes:
        text: as it appears.
        shade: 0 to 8.
        value: its d2D as a person reads it.
        top: whether it is the one that the example is about.
    """

    text: str
    shade: int
    value: str
    top: bool


@dataclass(frozen=True)
class Example:
    """One top example: tokens, or the numbers of a toy input as bars, or an image as PNG in base64."""

    value: str
    width: int
    tokens: list[Token] = field(default_factory=list)
    bars: Markup = field(default_factory=Markup)
    numbers: str = ""
    png: str = ""


@dataclass
class Card:
    """Everything on one direction.

    Attributes:
        k: its number.
        steepness: mean of d2D squared over held-out samples; None where unknown.
        examples: by evaluation set.
        leader: the commonest activating token or strongest input of the top 20; None without examples.
        purity: its share of them.
        nearest: (other direction, |cos|, co-activity), nearest first.
        intervention: its line of ``interventions.json``.
    """

    k: int
    is_text: bool
    steepness: float | None
    largest: float
    examples: dict[str, list[Example]]
    leader: str | None
    purity: float | None
    nearest: list[tuple[int, float, float]]
    intervention: dict[str, Any]
    histogram: Markup
    curve: Markup
    geometry: Markup
    label: dict[str, Any]
    structure: str
    vocabulary: list[dict[str, Any]]
    badges: list[Badge] = field(default_factory=list)

    @property
    def moved(self) -> bool:
        """Whether the weights were moved along it."""
        return bool(self.intervention.get("deltas"))

    @property
    def effects(self) -> dict[str, Any]:
        """What a step did to the outputs; empty parts where that was not looked at."""
        nothing: dict[str, Any] = {"delta": None, "tokens": None, "predictions": [], "outputs": []}
        return nothing | self.intervention.get("effects", {})

    @property
    def selectivity(self) -> float | None:
        """Measured by moving the weights; infinite where nothing moved on random samples."""
        if not self.moved:
            return None
        measured = self.intervention["selectivity"]
        return float("inf") if measured is None else measured


def gather(
    top_examples: list[dict[str, Any]],
    details: list[dict[str, Any]],
    interventions: dict[str, Any],
    directions: Float[np.ndarray, "K P"],
    steepness: Float[np.ndarray, " K"] | None,
    coactivity: Float[np.ndarray, "K K"] | None,
    geometry: list[Markup] | None,
    scorecard: dict[str, Any],
    vocabulary: Sequence[dict[str, Any]] = (),
) -> list[Card]:
    """One card a direction.

    Args:
        top_examples: content of ``top_examples.jsonl``.
        details: content of ``cards.jsonl``; empty where there is none.
        interventions: content of ``interventions.json``; empty where there is none.
        directions: U.
        steepness: mean of d2D squared of each direction.
        coactivity: content of ``coactivity.npy``.
        geometry: a picture of each direction in hidden space, for a toy model.
        scorecard: content of ``scorecard.json``, which says what is dead or a duplicate; empty where there is none.
        vocabulary: content of ``vocabulary.jsonl``; empty where there is none.
    """
    labels = {line["direction"]: line for line in scorecard.get("labels", [])}
    cosine = np.abs(directions @ directions.T)
    np.fill_diagonal(cosine, 0)
    read = {line["direction"]: line["readings"] for line in vocabulary}
    detail = {line["direction"]: line for line in details}
    moved = {line["direction"]: line for line in interventions.get("directions", [])}
    shown = sum(len(line["examples"]) for line in top_examples)
    budget = max(8, TOKENS_A_PAGE // max(1, shown))
    cards = []
    for line in top_examples:
        k = line["direction"]
        more, intervention = detail.get(k, {}), moved.get(k, {})
        histogram = more.get("histogram", {})
        leader, purity = _leader(line["examples"])
        together = np.zeros(len(cosine)) if coactivity is None else coactivity[k]
        card = Card(
            k=k,
            is_text=any("token" in example for example in line["examples"]),
            steepness=None if steepness is None else float(steepness[k]),
            largest=max((example["value"] for example in line["examples"]), default=0.0),
            examples={
                SET_NAMES.get(name, name): _examples(
                    examples, more.get("contexts", []) if name == "examples" else [], budget
                )
                for name, examples in line.items()
                if name != "direction"
            },
            leader=leader,
            purity=purity,
            nearest=_nearest(k, cosine[k], together),
            intervention=intervention,
            histogram=figures.histogram(histogram["log10_edges"], histogram["counts"], histogram["below"])
            if histogram and histogram["samples"] >= FEW_SAMPLES
            else Markup(""),
            curve=figures.intervention_curve(intervention) if intervention.get("deltas") else Markup(""),
            geometry=geometry[k] if geometry else Markup(""),
            label=labels.get(k, {}) if labels.get(k, {}).get("rule") else {},
            structure=_structure(scorecard.get("structure", {}), k),
            vocabulary=read.get(k, []),
        )
        cards.append(card)
    _add_badges(cards, cosine, scorecard.get("health", {}))
    return cards


def _examples(examples: list[dict[str, Any]], contexts: list[dict[str, Any]], budget: int) -> list[Example]:
    top = max((example["value"] for example in examples), default=0.0)
    largest_input = max((abs(v) for example in examples for v in example.get("input", [])), default=1.0) or 1.0
    by_place = {(context["sample_id"], context["position"]): context for context in contexts}
    shown = []
    for example in examples:
        value, width = number(example["value"]), level(example["value"], top, 20)
        if "token" in example:
            context = by_place.get((example["sample_id"], example["position"]))
            tokens = _plain_tokens(example) if context is None else _shaded(context, top, budget)
            shown.append(Example(value, width, tokens=tokens))
        else:
            shown.append(_numbers(example, value, width, largest_input))
    return shown


def _numbers(example: dict[str, Any], value: str, width: int, largest_input: float) -> Example:
    """An example that is no text: a few numbers as bars, an image, a series, or a line that sums it up."""
    given = example.get("input", [])
    if given and len(given) <= MOST_BARS:
        label = f" ({example['label']})" if "label" in example else ""
        numbers = "[" + ", ".join(map(number, given)) + "]"
        drawn = figures.bars(given, largest_input) if len(given) > 2 else Markup("")
        return Example(value, width, bars=drawn, numbers=numbers + label)
    series = example.get("values", given)
    drawn = figures.series(series) if len(series) > 1 else Markup("")
    return Example(value, width, bars=drawn, numbers=one_line(example), png=example.get("png", ""))


def _plain_tokens(example: dict[str, Any]) -> list[Token]:
    parts = ((example["before"], False), (example["token"], True), (example["after"], False))
    return [Token(text, 8 if top else 0, number(example["value"]) if top else "", top) for text, top in parts if text]


def _shaded(context: dict[str, Any], top: float, budget: int) -> list[Token]:
    position = context["position"]
    first, last = 0, len(context["tokens"])
    if last > min(budget, TOKENS_BEFORE + 1 + TOKENS_AFTER):
        first = max(0, position - min(TOKENS_BEFORE, budget * 3 // 4))
        last = position + 1 + min(TOKENS_AFTER, max(2, budget // 4))
    tokens: list[Token] = [Token("…", 0, "", False)] if first else []
    for index, (text, value) in enumerate(zip(context["tokens"], context["values"], strict=True)):
        if not first <= index < last:
            continue
        shade = level(value, top)
        if shade or index == position or not tokens or tokens[-1].shade or tokens[-1].top:
            tokens.append(Token(text, shade, number(value), index == position))
        else:
            # Runs of unshaded tokens share one element: most of a context, and most of the page, is these.
            tokens[-1] = Token(tokens[-1].text + text, 0, "", False)
    if last < len(context["tokens"]):
        tokens.append(Token("…", 0, "", False))
    return tokens


def _leader(examples: list[dict[str, Any]]) -> tuple[str | None, float | None]:
    if not examples:
        return None, None
    if "token" in examples[0]:
        led = [example["token"] for example in examples[:20]]
    elif "input" not in examples[0]:
        # Labels are known for some data of a person's own; nothing else of it has a name.
        led = [example["label"] for example in examples[:20] if "label" in example]
        if not led:
            return None, None
    elif len(examples[0]["input"]) > 2:
        led = [f"feature {int(np.abs(example['input']).argmax())}" for example in examples[:20]]
    else:
        return f"[{', '.join(number(v) for v in examples[0]['input'])}]", None
    leader, count = Counter(led).most_common(1)[0]
    return leader, count / len(led)


def _nearest(
    k: int, cosine: Float[np.ndarray, " K"], together: Float[np.ndarray, " K"], count: int = 3
) -> list[tuple[int, float, float]]:
    order = sorted((index for index in range(len(cosine)) if index != k), key=lambda i: -(max(cosine[i], together[i])))
    return [(index, float(cosine[index]), float(together[index])) for index in order[:count]]


def _structure(structure: dict[str, Any], k: int) -> str:
    """Where a direction is: the parameters and heads that hold most of it, in words."""
    shares = sorted(((part[k], name) for name, part in structure.get("by_parameter", {}).items()), reverse=True)
    words = [f"{share:.0%} in {name}" for share, name in shares[:3] if len(shares) > 1 and share >= 0.01]
    singular = (structure.get("first_singular_share") or [None] * (k + 1))[k]
    if singular is not None:
        words.append(f"{singular:.0%} of the norm in the first singular pair")
    for name, heads in structure.get("leading_head", {}).items():
        words.append(f"head {heads[k]} of {name} holds {structure['head'][name][k]:.0%}")
    return "; ".join(words)


def _add_badges(cards: list[Card], cosine: Float[np.ndarray, "K K"], health: dict[str, Any]) -> None:
    twins = {later: earlier for earlier, later in health.get("duplicates", [])}
    for card in cards:
        if card.k in health.get("dead", []):
            card.badges.append(Badge("dead", f"leads on no held-out sample, largest d2D {number(card.largest)}"))
        if card.k in twins:
            twin = twins[card.k]
            card.badges.append(Badge("duplicate", f"|cos| {cosine[card.k, twin]:.2f} with direction {twin}"))
        moved = card.intervention
        if moved.get("deltas"):
            learned, control = moved["selectivity"], moved["control_selectivity"]
            if learned is not None and control is not None and learned < 1.5 * control:
                card.badges.append(
                    Badge("unselective", f"selectivity {ratio(learned)}, random direction {ratio(control)}")
                )
            if abs(moved["reference_asymmetry"]) > 0.2:
                card.badges.append(
                    Badge(
                        "one-sided",
                        f"sign asymmetry {moved['reference_asymmetry']:+.2f} at δ {number(moved['reference_delta'])}",
                    )
                )
        examples = next(iter(card.examples.values()), [])
        if card.is_text and card.purity is not None and card.purity >= 0.8 and len(examples) > 1:
            card.badges.append(Badge("one token", f"{card.purity:.0%} of top examples end in the same token"))
