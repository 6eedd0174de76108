"""Simple rules that tell tokens of a text apart: by token, token before, class, and position."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from eigen_lightning.analysis.token_classes import CLASSES, GROUPS, token_class, token_group

NONE = -1
"""Value of a feature that a token does not have: a token before at a window's start."""

CURRENT = {"token", "class", "group", "kind"}
"""Features that the current token, or sample, alone decides; "kind" is that of a sample that is no text."""

FAMILIES: tuple[tuple[str, ...], ...] = (
    ("token",),
    ("class",),
    ("group",),
    ("window position",),
    ("story position",),
    ("sentence position",),
    ("token before",),
    ("class before",),
    ("group before",),
    ("token two back",),
    ("class before", "token"),
    ("token before", "class"),
    ("class before", "class"),
    ("token before", "token"),
)
"""Features that the rules of one family name the values of; simpler families first."""

EXACT_POSITIONS = 4
"""Positions told apart one by one; later ones by powers of two."""


@dataclass(frozen=True, eq=False)
class Text:
    """Windows of tokens, on the CPU.

    Attributes:
        tokens: ids.
        offset: how many tokens of its story come before each window; None where that is not known.
    """

    tokens: Int[Tensor, "windows length"]
    offset: Int[Tensor, " windows"] | None = None


@dataclass(frozen=True)
class Rule:
    """A token follows it where each feature has its value.

    Attributes:
        features: what is looked at, one of :data:`FAMILIES`; ``("kind",)`` for samples that are no text.
        values: what it has to be: ids of tokens, numbers of classes, numbers of position ranges.
    """

    features: tuple[str, ...]
    values: tuple[int, ...]

    @property
    def needs_context(self) -> bool:
        """Whether the current token alone does not decide it."""
        return not CURRENT.issuperset(self.features)

    def holds(self, features: Mapping[str, Int[Tensor, "windows length"]]) -> Bool[Tensor, "windows length"]:
        """Which tokens of a text follow it."""
        masks = [features[name] == value for name, value in zip(self.features, self.values, strict=True)]
        return torch.stack(masks).all(0)

    def to_json(self) -> dict[str, Any]:
        """``features`` and ``values`` as lists."""
        return {"features": list(self.features), "values": list(self.values)}


class Vocabulary:
    """Tokens as strings, and the class of each.

    A capitalized word is a name where it is written so within sentences more often than in lower case; all texts are
    looked at for that. Classes belong to tokens, not to their places: the current token alone decides them.

    Args:
        strings: each token that occurs, with its blank in front: see :func:`token_strings`.
        texts: where they occur.

    Attributes:
        strings: as given.
        classes: the number in :data:`CLASSES` of each id; :data:`NONE` for ids that do not occur.
        groups: the number in :data:`GROUPS`, likewise.
    """

    def __init__(self, strings: Mapping[int, str], texts: Iterable[Text]) -> None:
        self.strings = strings
        self.classes = torch.full((max(strings) + 1,), NONE)
        self.groups = self.classes.clone()
        self._has_blank = torch.zeros(len(self.classes), dtype=torch.bool)
        for token, string in strings.items():
            self.classes[token] = CLASSES.index(token_class(string))
            self.groups[token] = GROUPS.index(token_group(string))
            self._has_blank[token] = string[:1].isspace()
        self._find_names(texts)

    def _find_names(self, texts: Iterable[Text]) -> None:
        lower, within = Counter[str](), Counter[str]()
        for text in texts:
            # After part of a character, which is where some tokenizers put “, a sentence may begin.
            unclear = self._starts_sentence(text.tokens)[:, 1:] | self._are(text.tokens, "another symbol")[:, :-1]
            for counter, tokens in ((lower, text.tokens), (within, text.tokens[:, 1:][~unclear])):
                for token, count in zip(*(part.tolist() for part in tokens.unique(return_counts=True)), strict=True):
                    counter[self.strings[token].strip()] += count
        for token, string in self.strings.items():
            word = string.strip()
            capitalized = self.classes[token] == CLASSES.index("another capitalized word")
            if capitalized and len(word) > 1 and within[word] > lower[word.lower()]:
                self.classes[token] = CLASSES.index("a name")

    def _starts_sentence(self, tokens: Int[Tensor, "windows length"]) -> Bool[Tensor, "windows length"]:
        """Tokens after the end of a sentence or line, or after an opening quotation mark; none at a window's start."""
        ends = self._are(tokens, "the end of a sentence") | self._are(tokens, "a line end")
        quotes = self._are(tokens, "a quotation mark")
        ended_before = torch.nn.functional.pad(ends, (1, 0), value=True)[:, :-1]
        opens = quotes & (self._has_blank[tokens] | ended_before)
        return torch.nn.functional.pad(ends | opens, (1, 0))[:, :-1]

    def _are(self, tokens: Int[Tensor, "windows length"], name: str) -> Bool[Tensor, "windows length"]:
        return self.classes[tokens] == CLASSES.index(name)

    def features(self, text: Text) -> dict[str, Int[Tensor, "windows length"]]:
        """The value of every feature at every token; positions in the story only where the text knows them."""
        tokens = text.tokens.long()
        classes = self.classes[tokens]
        groups = self.groups[tokens]
        place = torch.arange(tokens.shape[1]).expand_as(tokens)
        starts = self._starts_sentence(tokens)
        if text.offset is not None:
            starts[:, 0] |= text.offset == 0
        sentence = torch.where(starts, place, NONE).cummax(1).values
        found = {
            "token": tokens,
            "class": classes,
            "group": groups,
            "window position": position_range(place),
            "sentence position": position_range(torch.where(sentence == NONE, NONE, place - sentence)),
            "token before": _shifted(tokens, 1),
            "class before": _shifted(classes, 1),
            "group before": _shifted(groups, 1),
            "token two back": _shifted(tokens, 2),
        }
        if text.offset is not None:
            found["story position"] = position_range(place + text.offset[:, None])
        return found

    def describe(self, rule: Rule) -> str:
        """A rule in words."""
        named = dict(zip(rule.features, rule.values, strict=True))
        here, before = self._named(named, ""), self._named(named, " before")
        for name, value in named.items():
            if name.endswith("position"):
                return f"{range_name(value)} of the {name.removesuffix(' position')}"
            if name == "token two back":
                return f"the second token after {self._shown(value)}"
        if before is None:
            return here or ""
        return f"{here} after {before}" if here else f"what follows {before}"

    def _named(self, named: Mapping[str, int], where: str) -> str | None:
        if "token" + where in named:
            return self._shown(named["token" + where])
        if "class" + where in named:
            return CLASSES[named["class" + where]]
        return GROUPS[named["group" + where]] if "group" + where in named else None

    def _shown(self, token: int) -> str:
        string = self.strings[token]
        word = string.strip(" ").replace("\r", "␍").replace("\n", "↵")
        continues = self.classes[token] == CLASSES.index("a word's continuation")
        quote = "'" if '"' in word else '"'
        return f"{quote}{'…' if continues else ''}{word}{quote}"


def token_strings(ids: Iterable[int], decode: Callable[[Sequence[int]], str]) -> dict[int, str]:
    """Each token as a string with its blank in front.

    Args:
        ids: of the tokens, as often as they occur.
        decode: text of a run of token ids. Some tokenizers strip the blank from the first of a run, hence each token
            is decoded after itself.
    """
    return {token: decode([token, token])[len(decode([token])) :] for token in sorted(set(ids))}


def position_range(position: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The range that a position counted from 0 lies in: itself below 4, then 4 to 7, 8 to 15, and so on."""
    doublings = position.clamp_min(1).double().log2().floor().long()
    return torch.where(position < EXACT_POSITIONS, position, doublings + 2)


def range_name(value: int) -> str:
    """A range of positions in words, counted from 1."""
    if value < EXACT_POSITIONS:
        return ("the first token", "the second token", "the third token", "the fourth token")[value]
    return f"tokens {2 ** (value - 2) + 1} to {2 ** (value - 1)}"


def _shifted(values: Int[Tensor, "windows length"], back: int) -> Int[Tensor, "windows length"]:
    return torch.nn.functional.pad(values, (back, 0), value=NONE)[:, : values.shape[1]]
