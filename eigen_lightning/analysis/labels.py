"""Labels in words: for each direction the simple rule that says best where its curvature falls, and how well it does.

A rule is chosen on one text and judged on another, without any other model. The criterion is what a listener learns:
of a direction with the share s of its normalized curvature on the tokens of a rule that holds for the share b of all
tokens, ``s log(s / b) + (1 - s) log((1 - s) / (1 - b))`` nats, the divergence of where the curvature falls from where
tokens fall. It grows with the share and with the precision relative to chance, s / b. Others did worse on directions
of ``blocks.4.attn.W_K``: the difference s - b prefers broad rules (a lower-case word: s 0.73, b 0.37) to telling ones
(what follows "the": 0.31, 0.04), correlation takes rare ones that few large values make ("a" after "found": 0.06).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from eigen_lightning.analysis.intervals import Interval, bootstrap, sums_by_group
from eigen_lightning.analysis.text_rules import CURRENT, FAMILIES, NONE, Rule, Text, Vocabulary

FEWEST = 8
"""Samples that a rule must hold for where it is chosen: fewer would be chance."""

SIMPLER_WITHIN = 0.05
"""A simpler rule is taken where it says less by at most this share."""


TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Label:
    """A rule for one direction, and how it does on text that it was not chosen on.

    Attributes:
        text: the rule in words.
        rule: the rule; None where there is no curvature, or none says more than chance.
        share: of the direction's normalized curvature, what falls on the samples of the rule.
        average_precision: of the samples ranked by normalized curvature, against those of the rule.
        base_rate: the share of all samples that the rule holds for; what ``share`` and ``average_precision`` are for
            curvature that falls anywhere.
        needs_context: whether the current token alone does not decide it.
        chosen_share: ``share`` on the samples that it was chosen on.
    """

    text: str
    rule: Rule | None
    share: float
    average_precision: float
    base_rate: float
    needs_context: bool
    chosen_share: float

    @property
    def explained(self) -> float:
        """``share`` beyond ``base_rate``: random directions are best told by rules that hold for half of all tokens."""
        return self.share - self.base_rate

    def to_json(self) -> dict[str, Any]:
        """The attributes by name, and ``explained``."""
        return {**vars(self), "rule": self.rule and self.rule.to_json(), "explained": self.explained}


NO_LABEL = Label("no rule", None, 0.0, 0.0, 0.0, False, 0.0)
"""Of a direction without curvature, or whose curvature falls as tokens do."""


@torch.no_grad()
def label_directions(
    train: Text,
    train_curvature: Float[Tensor, "K windows length"],
    unseen: Text,
    unseen_curvature: Float[Tensor, "K unseen_windows length"],
    vocabulary: Vocabulary,
) -> list[Label]:
    """Of the rules in :data:`text_rules.FAMILIES`, the best for each direction.

    Controls are labelled by the same call: their rules are chosen as those of learned directions are.

    Args:
        train: text to choose rules on.
        train_curvature: d2D of each direction on each token, divided by the token's trace.
        unseen: text to judge them on.
        unseen_curvature: the same there.
        vocabulary: of both.
    """
    features, there = vocabulary.features(train), vocabulary.features(unseen)
    weights, judged = _by_sample(train_curvature), _by_sample(unseen_curvature)
    families = [family for family in FAMILIES if all(name in features and name in there for name in family)]
    best = {
        family: _best_of_family(weights, torch.stack([features[name].flatten() for name in family], 1))
        for family in families
    }
    labels = []
    for k, family in enumerate(_simplest(torch.stack([said for said, _ in best.values()]), families)):
        if family is None:
            labels.append(NO_LABEL)
            continue
        rule = Rule(family, tuple(best[family][1][k].tolist()))
        labels.append(
            _label(
                vocabulary.describe(rule),
                rule,
                (weights[:, k], rule.holds(features).flatten()),
                (judged[:, k], rule.holds(there).flatten()),
            )
        )
    return labels


def held(
    labels: Sequence[Label], features: Mapping[str, Int[Tensor, "windows length"]]
) -> Bool[Tensor, "K windows length"]:
    """The tokens of each label's rule; none where there is no rule.

    Args:
        labels: from :func:`label_directions`.
        features: of a text: see :meth:`Vocabulary.features`.
    """
    nowhere = torch.zeros_like(features["token"], dtype=torch.bool)
    return torch.stack([label.rule.holds(features) if label.rule else nowhere for label in labels])


def shares_on(holds: Bool[Tensor, "K *samples"], curvature: Float[Tensor, "M *samples"]) -> Float[Tensor, "K M"]:
    """The share that the samples of each rule have of each direction's curvature, float64; 0 where it has none.

    With controls as the directions: what a rule holds of those that it was not chosen for.
    """
    weights = _by_sample(curvature)
    return holds.flatten(1).double().cpu() @ weights / weights.sum(0).clamp_min(TINY)


@torch.no_grad()
def explained_by_labels(
    holds: Bool[Tensor, "K samples *positions"],
    curvature: Float[Tensor, "K samples *positions"],
    group: Int[Tensor, " samples"],
    level: float = 0.9,
    seed: int = 0,
) -> Interval:
    """How much of a decomposition can be said in words, with its bootstrap interval over groups of samples.

    The mean over directions of their labels' ``explained``; the labels are taken as they are.

    Args:
        holds: which samples follow each direction's label: see :func:`held`.
        curvature: normalized, on the samples that labels are judged on.
        group: the story of each sample; on toys its own number.
        level: the probability with which the interval is to hold the truth.
        seed: of the draws.
    """
    K, n_samples = holds.shape[:2]
    curvature, rule = (values.reshape(K, n_samples, -1).double().cpu() for values in (curvature, holds))
    sums = torch.stack([(curvature * rule).sum(2), curvature.sum(2), rule.sum(2), torch.ones_like(rule).sum(2)])
    by_group, counts = sums_by_group(sums, group)

    def explained(weights: Float[Tensor, "draws groups"]) -> Float[Tensor, " draws"]:
        on_rule, total, followed, everything = by_group @ weights.T
        # Of a direction without curvature nothing is explained; its label holds nowhere.
        return (on_rule / total.clamp_min(TINY) - followed / everything).mean(0)

    return bootstrap(explained, len(counts), level, seed=seed)


def _by_sample(curvature: Float[Tensor, "K *samples"]) -> Float[Tensor, "samples K"]:
    """One row a sample: sums by rule then run along memory."""
    return curvature.flatten(1).double().cpu().T.contiguous()


def _information(
    on_rule: Float[Tensor, "K R"], total: Float[Tensor, " K"], count: Int[Tensor, " R"], n_samples: int
) -> Float[Tensor, "K R"]:
    """The criterion, in nats; 0 for rules that hold for too few samples or hold less curvature than chance would."""
    share = on_rule / total.clamp_min(TINY)[:, None]
    base = (count / n_samples).to(share)
    said = torch.xlogy(share, share / base) + torch.xlogy(1 - share, (1 - share).clamp_min(0) / (1 - base))
    return torch.where((share > base) & (count >= FEWEST), said, 0.0)


def _best_of_family(
    weights: Float[Tensor, "samples K"], values: Int[Tensor, "samples features"]
) -> tuple[Float[Tensor, " K"], Int[Tensor, "K features"]]:
    """For each direction, the most that a rule of one family says, and the feature values that it asks for."""
    defined = (values != NONE).all(1)
    values, weights, total, n_samples = values[defined], weights[defined], weights.sum(0), len(weights)
    # One number for each rule, as unique() is much faster on numbers than on rows.
    code, above = torch.zeros(len(values), dtype=torch.long), int(values.max()) + 1 if len(values) else 0
    for column in values.T:
        code = code * above + column
    _, rule, count = code.unique(return_inverse=True, return_counts=True)
    often = count >= FEWEST
    if not often.any():
        return weights.new_zeros(weights.shape[1]), values.new_zeros(weights.shape[1], values.shape[1])
    kept = often[rule]
    values, weights, rule = values[kept], weights[kept], (often.cumsum(0) - 1)[rule[kept]]
    on_rule = weights.new_zeros(int(often.sum()), weights.shape[1]).index_add_(0, rule, weights)
    said, best = _information(on_rule.T, total, count[often], n_samples).max(1)
    # Whichever of a rule's samples stands here, its values are the rule's.
    example = torch.zeros(len(on_rule), dtype=torch.long).scatter_(0, rule, torch.arange(len(rule)))
    return said, values[example[best]]


def _simplest(
    information: Float[Tensor, "families K"], families: Sequence[tuple[str, ...]]
) -> list[tuple[str, ...] | None]:
    """For each direction the best family of the simplest kind that says about as much as any; None where all say 0."""
    kinds = sorted({_complexity(family) for family in families})
    found: list[tuple[str, ...] | None] = []
    for column in information.T.tolist():
        said = dict(zip(families, column, strict=True))
        of_kind = [[family for family in families if _complexity(family) == kind] for kind in kinds]
        best = [max(some, key=lambda family: said[family]) for some in of_kind]
        most = max(column)
        found.append(next(family for family in best if said[family] >= (1 - SIMPLER_WITHIN) * most) if most else None)
    return found


def _complexity(family: tuple[str, ...]) -> tuple[bool, int]:
    """What the current token alone decides is simplest, then one look elsewhere, then two things at once."""
    return not CURRENT.issuperset(family), len(family)


def _label(
    text: str,
    rule: Rule,
    chosen: tuple[Float[Tensor, " samples"], Bool[Tensor, " samples"]],
    judged: tuple[Float[Tensor, " unseen"], Bool[Tensor, " unseen"]],
) -> Label:
    curvature, holds = judged
    return Label(
        text=text,
        rule=rule,
        share=_share(curvature, holds),
        average_precision=_average_precision(curvature, holds),
        base_rate=float(holds.double().mean()),
        needs_context=rule.needs_context,
        chosen_share=_share(*chosen),
    )


def _share(curvature: Float[Tensor, " samples"], holds: Bool[Tensor, " samples"]) -> float:
    total = float(curvature.sum())
    return float(curvature[holds].sum()) / total if total > 0 else 0.0


def _average_precision(curvature: Float[Tensor, " samples"], holds: Bool[Tensor, " samples"]) -> float:
    """0 where the rule holds for no sample."""
    if not holds.any():
        return 0.0
    # In [0, 1], as torchmetrics squeezes other numbers into it, where small ones would no longer differ.
    return float(binary_average_precision(curvature / curvature.max().clamp_min(TINY), holds.long()))
