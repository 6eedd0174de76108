"""A verdict in words, each word drawn from a number."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from eigen_lightning.report.text import number, ratio

Tone = Literal["good", "fair", "bad"]


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict.

    Attributes:
        tone: whether it speaks for the result.
        text: the sentence.
    """

    tone: Tone
    text: str


WHOLE_ABOVE = 0.5
"""Share of a feature's curvature along its true direction below which that is said."""


def verdict(
    manifest: dict[str, Any], scorecard: dict[str, Any], interventions: dict[str, Any], cards: list[Any]
) -> list[Finding]:
    """What the run's numbers say, controls included.

    Args:
        manifest: of the run.
        scorecard: of the run; empty where there is none.
        interventions: of the run; empty where there are none.
        cards: of the report, one a direction.
    """
    found = []
    if manifest.get("status") != "complete":
        found.append(
            Finding(
                "bad", f"The run is not complete ({manifest.get('status', 'unknown')}): this is what it had so far."
            )
        )
    found += _recovery(scorecard)
    found += _planted(scorecard)
    found += _causes(interventions)
    found += _reading(cards, scorecard)
    found += _health(cards)
    found += _generalization(scorecard)
    return found


def _recovery(scorecard: dict[str, Any]) -> list[Finding]:
    learned = scorecard.get("learned", {})
    if "matched" not in learned:
        return []
    total = scorecard.get("features") or learned.get("features") or scorecard.get("oracle", {}).get("matched")
    matched = learned["matched"]
    tone: Tone = "good" if total and matched >= total else "fair" if matched else "bad"
    of = f" of {number(total)}" if total else ""
    findings = [Finding(tone, f"{number(matched)}{of} features recovered{_controls(scorecard, 'matched')}.")]
    truth = scorecard.get("truth", {})
    if truth.get("eigenshare", 1.0) < WHOLE_ABOVE:
        of_feature = "its true direction" if truth["rank"] == 1 else f"its {number(truth['rank'])} true directions"
        sentence = f"Of a feature's curvature {truth['eigenshare']:.0%} lies along {of_feature}: the rest is elsewhere."
        findings.append(Finding("fair", sentence))
    return findings


def _planted(scorecard: dict[str, Any]) -> list[Finding]:
    learned = scorecard.get("learned", {})
    if "context_states" not in learned:
        return []
    count, others = learned["context_states"], [scorecard.get(key, {}) for key in ("pca", "random", "random_network")]
    tone: Tone = "good" if all(count > other.get("context_states", 0) for other in others) else "bad"
    sentence = f"{number(count)} planted regularities found that the current word does not decide"
    return [Finding(tone, f"{sentence}{_controls(scorecard, 'context_states')}.")]


def _controls(scorecard: dict[str, Any], name: str) -> str:
    others = [
        f"{title} {number(scorecard[key][name])}"
        for key, title in (("pca", "PCA"), ("random", "random directions"))
        if name in scorecard.get(key, {})
    ]
    return f" ({', '.join(others)})" if others else ""


def _causes(interventions: dict[str, Any]) -> list[Finding]:
    if not interventions.get("directions"):
        return []
    learned, control = interventions["median_selectivity"], interventions["median_control_selectivity"]
    kind = "equally sensitive random ones" if interventions.get("matched") else "random ones"
    advantage = (learned or float("inf")) / control if control else float("inf")
    tone: Tone = "good" if advantage >= 3 else "fair" if advantage >= 1.5 else "bad"
    return [
        Finding(
            tone,
            f"Moving the weights along a direction changes its top samples {ratio(learned)} times as much as {kind} "
            f"({_median_of(interventions)}); along a random direction, {ratio(control)} times.",
        )
    ]


def _median_of(interventions: dict[str, Any]) -> str:
    checked, total = len(interventions["directions"]), interventions["n_directions"]
    return "median" if checked == total else f"median of {checked} of {total} directions that were checked"


def _reading(cards: list[Any], scorecard: dict[str, Any]) -> list[Finding]:
    learned = scorecard.get("learned", {})
    if "token_purity" in learned:
        leading = learned["distinct_leading_tokens"]
        pure, random = learned["token_purity"], scorecard.get("random", {}).get("token_purity", 0)
        tone: Tone = "good" if pure > 1.5 * random and leading > 0.7 * len(cards) else "fair"
        return [
            Finding(
                tone,
                f"{number(leading)} distinct leading tokens in {len(cards)} directions"
                f"{_controls(scorecard, 'distinct_leading_tokens')}; token purity {number(pure)}"
                f"{_controls(scorecard, 'token_purity')}.",
            )
        ]
    leaders = Counter(card.leader for card in cards if card.leader is not None)
    if not leaders:
        return []
    pure = sorted(card.purity for card in cards if card.purity is not None)
    tone = "good" if len(leaders) > 0.7 * len(cards) else "fair"
    thing = "token" if any(card.is_text for card in cards) else "input"
    sentence = f"{len(leaders)} different leading {thing}s in {len(cards)} directions"
    if pure:
        sentence += f"; in the median direction {pure[len(pure) // 2]:.0%} of the top examples share theirs"
    return [Finding(tone, f"{sentence}.")]


def _health(cards: list[Any]) -> list[Finding]:
    counts = Counter(badge.name for card in cards for badge in card.badges)
    sentences = {
        "dead": ("dead direction", "bad"),
        "duplicate": ("duplicate", "bad"),
        "one-sided": ("one-sided direction", "fair"),
    }
    found = []
    for name, (words, tone) in sentences.items():
        if counts[name]:
            found.append(Finding(tone, f"{counts[name]} {words}{'s' if counts[name] > 1 else ''}."))  # type: ignore[arg-type]
    if not counts["dead"] and not counts["duplicate"]:
        found.append(Finding("good", "No dead directions and no duplicates."))
    return found


def _generalization(scorecard: dict[str, Any]) -> list[Finding]:
    learned = scorecard.get("learned", {})
    train, heldout = learned.get("train_normalized_steepness"), learned.get("normalized_steepness")
    if not train or heldout is None:
        return []
    share = heldout / train
    tone: Tone = "good" if share > 0.7 else "fair" if share > 0.3 else "bad"
    return [
        Finding(
            tone,
            f"Normalized steepness on held-out samples is {share:.0%} of that on training samples"
            f"{_controls(scorecard, 'normalized_steepness')}.",
        )
    ]
