"""Labels of several sets of directions, from what was judged of them on training and on held-out samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from eigen_lightning.analysis.evaluation import Evaluated
from eigen_lightning.analysis.labels import explained_by_labels, held, label_directions, shares_on
from eigen_lightning.analysis.subject import EvaluationSamples
from eigen_lightning.analysis.text_rules import Text, Vocabulary, token_strings


@dataclass(frozen=True)
class LabelFigures:
    """Labels of text directions; nothing where samples are no text.

    Attributes:
        of_learned: a label for each learned direction, with ``random_share``: the share of the random directions'
            curvature on the same rule, the largest of them.
        figures: by set, how much of it its labels explain, with the interval over stories.
    """

    of_learned: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


def groups_of(samples: Any, sample_id: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """What was drawn together: the story of each window of text, every other sample by itself."""
    stories = getattr(samples, "stories", None)
    if stories is None:
        return sample_id
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(stories[samples.locate(i)[1]], len(numbers)) for i in sample_id.tolist()])


def labels_of(
    samples: EvaluationSamples, heldout: Mapping[str, Evaluated], train: Mapping[str, Evaluated]
) -> LabelFigures:
    """Choose a rule for every direction of every set on training text and judge it on held-out text.

    Args:
        samples: that they were judged on.
        heldout: the sets as judged on held-out samples.
        train: the same on training samples; further sets are left out.
    """
    told: Any = samples.heldout_set
    if not hasattr(told, "stories"):
        return LabelFigures()
    here, there = heldout["learned"].normalized, train["learned"].normalized
    texts = [_text(samples.train_set, there.sample_id), _text(told, here.sample_id)]
    ids = torch.cat([text.tokens.flatten() for text in texts]).unique().tolist()

    def decode(tokens: Any) -> str:
        return told.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    vocabulary = Vocabulary(token_strings(ids, decode), texts)
    group = groups_of(told, here.sample_id)
    features = vocabulary.features(texts[1])
    figures, of_learned = {}, []
    random = torch.cat(
        [here.values[judged.rows] for name, judged in heldout.items() if "random" in name] or [here.values[:0]]
    )
    for name, judged in heldout.items():
        values = here.values[judged.rows]
        labels = label_directions(texts[0], there.values[train[name].rows], texts[1], values, vocabulary)
        holds = held(labels, features)
        interval = explained_by_labels(holds, values, group)
        figures[name] = {
            "explained_by_labels": float(interval.value),
            "explained_by_labels_low": float(interval.low),
            "explained_by_labels_high": float(interval.high),
        }
        if name == "learned":
            shares = shares_on(holds, random).amax(1).tolist() if len(random) else [None] * len(labels)
            of_learned = [
                {"direction": k, **label.to_json(), "random_share": share}
                for k, (label, share) in enumerate(zip(labels, shares, strict=True))
            ]
    return LabelFigures(of_learned, figures)


def _text(samples: Any, sample_id: Int[Tensor, " n"]) -> Text:
    places = [samples.locate(identity)[1] for identity in sample_id.tolist()]
    return Text(samples.windows[places].long(), torch.tensor([samples.first_tokens[place] for place in places]))
