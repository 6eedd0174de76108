"""Labels on texts whose curvature was put there by a rule, and against a search by hand."""

import json
import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from eigen_lightning.analysis.labels import (
    FEWEST,
    NO_LABEL,
    SIMPLER_WITHIN,
    Label,
    explained_by_labels,
    held,
    label_directions,
    shares_on,
)
from eigen_lightning.analysis.text_rules import FAMILIES, Rule, Text, Vocabulary, token_strings
from eigen_lightning.analysis.token_classes import CLASSES

WORDS = [
    " Lily",
    " Tom",
    " she",
    " he",
    " the",
    " a",
    " dog",
    " ran",
    " said",
    " big",
    ".",
    ",",
    "\n",
    ' "',
    " and",
    "s",
]
STRINGS = dict(enumerate(WORDS))
ID = {word: number for number, word in STRINGS.items()}


def random_text(windows: int = 400, length: int = 12) -> Text:
    return Text(torch.randint(len(WORDS), (windows, length)), torch.randint(3, (windows,)) * length)


def vocabulary_of(*texts: Text) -> Vocabulary:
    return Vocabulary(STRINGS, texts)


def planted(text: Text, rule: Rule, share: float) -> Tensor:
    """Curvature of uneven size, ``share`` of it on the tokens of a rule and the rest anywhere."""
    holds = rule.holds(vocabulary_of(text).features(text))
    noise, signal = torch.rand(2, *text.tokens.shape)
    signal = (signal + 0.5) * holds
    return share * signal / signal.sum() + (1 - share) * noise / noise.sum()


def labels_of(*rules: Rule, share: float = 0.8) -> tuple[list[Label], Text]:
    train, unseen = random_text(), random_text()
    curvature = [torch.stack([planted(text, rule, share) for rule in rules]) for text in (train, unseen)]
    return label_directions(train, curvature[0], unseen, curvature[1], vocabulary_of(train, unseen)), unseen


NAME, PRONOUN = CLASSES.index("a name"), CLASSES.index("a pronoun")


@pytest.mark.parametrize(
    ("features", "values", "words"),
    [
        (("token",), (ID[" dog"],), '"dog"'),
        (("class",), (PRONOUN,), "a pronoun"),
        (("token before",), (ID[" dog"],), 'what follows "dog"'),
        (("token two back",), (ID[" said"],), 'the second token after "said"'),
        (("class before",), (NAME,), "what follows a name"),
        (("token before", "token"), (ID[" the"], ID[" dog"]), '"dog" after "the"'),
        (("class before", "token"), (NAME, ID[" she"]), '"she" after a name'),
        (("token before", "class"), (ID[" and"], PRONOUN), 'a pronoun after "and"'),
        (("class before", "class"), (NAME, PRONOUN), "a pronoun after a name"),
        (("window position",), (2,), "the third token of the window"),
        (("story position",), (0,), "the first token of the story"),
        (("sentence position",), (1,), "the second token of the sentence"),
    ],
)
def test_a_planted_rule_is_found_with_its_share(features, values, words) -> None:
    rule = Rule(features, values)
    (label,), unseen = labels_of(rule)
    assert label.rule == rule
    assert label.text == words
    holds = rule.holds(vocabulary_of(unseen).features(unseen)).double()
    assert label.base_rate == pytest.approx(float(holds.mean()))
    # What is anywhere is on the rule's tokens as often as they come.
    assert label.share == pytest.approx(0.8 + 0.2 * label.base_rate, abs=0.01)
    assert label.chosen_share == pytest.approx(label.share, abs=0.03)
    assert label.average_precision > 0.97
    assert label.needs_context == (features not in (("token",), ("class",)))


def test_curvature_that_falls_anywhere_gets_a_share_near_the_base_rate() -> None:
    train, unseen = random_text(), random_text()
    curvature = [torch.rand(20, *text.tokens.shape).pow(4) for text in (train, unseen)]
    labels = label_directions(train, curvature[0], unseen, curvature[1], vocabulary_of(train, unseen))
    for label in labels:
        assert abs(label.share - label.base_rate) < 4 * (label.base_rate / 4800 * 3) ** 0.5 + 0.002
    shares = [label.share for label in labels]
    assert sum(shares) / 20 == pytest.approx(sum(label.base_rate for label in labels) / 20, abs=0.01)
    # Where they were chosen they seem to hold more.
    assert sum(label.chosen_share > label.share for label in labels) > 14


def test_a_label_chosen_on_one_text_is_judged_on_the_other() -> None:
    train, unseen = random_text(), random_text()
    here, there = Rule(("token",), (ID[" dog"],)), Rule(("token",), (ID[" big"],))
    curvature = planted(train, here, 0.9)[None], planted(unseen, there, 0.9)[None]
    (label,) = label_directions(train, curvature[0], unseen, curvature[1], vocabulary_of(train, unseen))
    assert label.text == '"dog"'
    assert label.chosen_share > 0.9
    assert label.share < 0.02
    assert label.average_precision < label.base_rate


def test_the_rule_is_that_of_a_search_by_hand() -> None:
    train, unseen = random_text(60, 8), random_text(60, 8)
    curvature = torch.rand(12, 60, 8).pow(6)
    # Some of them lean on a few tokens, so that rules of many families win.
    curvature[:6] *= (train.tokens % 5 == torch.arange(6)[:, None, None] % 5) + 0.05
    curvature[3:9, :, 1:] *= (train.tokens[:, :-1] % 3 == 0) + 0.3
    labels = label_directions(train, curvature, unseen, torch.rand(12, 60, 8), vocabulary_of(train, unseen))
    features = vocabulary_of(train, unseen).features(train)
    for row, label in zip(curvature.double(), labels, strict=True):
        said = {}
        for family in FAMILIES:
            members = defaultdict(list)
            for window in range(60):
                for position in range(8):
                    values = tuple(int(features[name][window, position]) for name in family)
                    if -1 not in values:
                        members[values].append(float(row[window, position]))
            for values, on_rule in members.items():
                share, base = sum(on_rule) / float(row.sum()), len(on_rule) / 480
                if len(on_rule) >= FEWEST and share > base:
                    said[Rule(family, values)] = share * math.log(share / base) + (1 - share) * math.log(
                        (1 - share) / (1 - base)
                    )
        most = max(said.values())
        kinds = [FAMILIES[:3], FAMILIES[3:10], FAMILIES[10:]]
        best = [
            max((rule for rule in said if rule.features in kind), key=said.__getitem__, default=None) for kind in kinds
        ]
        best = next(rule for rule in best if rule and said[rule] >= (1 - SIMPLER_WITHIN) * most)
        assert label.rule == best
    assert len({label.rule.features for label in labels}) > 3


def test_of_rules_that_hold_for_the_same_tokens_the_simplest_is_taken() -> None:
    tokens = torch.randint(4, 10, (200, 10))
    # "she" always after "Lily", the only name.
    tokens[:, 4], tokens[:, 5] = ID[" Lily"], ID[" she"]
    curvature = (tokens == ID[" she"]).float()[None]
    (label,) = label_directions(Text(tokens), curvature, Text(tokens), curvature, vocabulary_of(Text(tokens)))
    assert label.text == '"she"'
    assert not label.needs_context
    assert (label.share, label.average_precision) == (1, 1)


def test_nothing_to_say_is_no_label() -> None:
    text = random_text(50)
    even = torch.ones(50, 12)
    labels = label_directions(
        text, torch.stack([0 * even, even]), text, torch.stack([0 * even, even]), vocabulary_of(text)
    )
    assert labels[0] == NO_LABEL
    json.dumps([label.to_json() for label in labels])


def test_average_precision_is_the_mean_precision_at_the_rules_tokens() -> None:
    train = random_text()
    rule = Rule(("token",), (ID[" dog"],))
    unseen = Text(train.tokens[:30], train.offset[:30])
    curvature = torch.rand(1, 30, 12).mul(20).round()
    (label,) = label_directions(train, planted(train, rule, 0.9)[None], unseen, curvature, vocabulary_of(train, unseen))
    holds = (unseen.tokens == ID[" dog"]).flatten()
    values = curvature.flatten()
    by_hand = 0.0
    for level in values.unique():
        above = values >= level
        by_hand += float(holds[above].double().mean()) * float((holds & (values == level)).sum())
    assert label.average_precision == pytest.approx(by_hand / float(holds.sum()))


def test_what_labels_explain_has_an_interval_and_the_means_of_the_labels() -> None:
    rules = Rule(("token",), (ID[" dog"],)), Rule(("class",), (PRONOUN,))
    train, unseen = random_text(), random_text()
    curvature = [
        torch.stack([*(planted(text, rule, 0.6) for rule in rules), torch.zeros(400, 12)]) for text in (train, unseen)
    ]
    vocabulary = vocabulary_of(train, unseen)
    labels = label_directions(train, curvature[0], unseen, curvature[1], vocabulary)
    holds = held(labels, vocabulary.features(unseen))
    assert torch.equal(holds[0], unseen.tokens == ID[" dog"])
    assert not holds[2].any()
    found = explained_by_labels(holds, curvature[1], torch.arange(400) // 5)
    assert found.value == pytest.approx(sum(label.share - label.base_rate for label in labels) / 3)
    assert found.low < found.value < found.high < found.low + 0.1
    others = shares_on(holds, curvature[1])
    assert others.diagonal().tolist() == pytest.approx([label.share for label in labels])
    assert others[0, 1] == pytest.approx(0.4 * labels[0].base_rate, abs=0.01)


def test_pronouns_after_names_in_stories(gpt2_tokenizer_folder, tinystories_file) -> None:
    """Real text in real tokens: curvature on "she" after a name among that of other tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gpt2_tokenizer_folder)
    stories = tinystories_file.read_text(encoding="utf-8")[:600_000].split("<|endoftext|>")[:-1]
    windows, offsets = [], []
    for story in stories:
        ids = tokenizer(story.strip())["input_ids"]
        for start in range(0, len(ids) - 15, 16):
            windows.append(ids[start : start + 16])
            offsets.append(start)
    half = len(windows) // 2
    tokens, offset = torch.tensor(windows), torch.tensor(offsets)
    train, unseen = Text(tokens[:half], offset[:half]), Text(tokens[half:], offset[half:])
    strings = token_strings(tokens.flatten().tolist(), tokenizer.decode)
    vocabulary = Vocabulary(strings, [train, unseen])
    named = {strings[token].strip() for token in strings if vocabulary.classes[token] == CLASSES.index("a name")}
    assert {"Lily", "Tom", "Sara", "Ben", "Max"} <= named
    assert not {"The", "She", "Once", "Mom", "Yes", "Oh", "But", "I"} & named

    rules = [
        Rule(("class before", "token"), (CLASSES.index("a name"), tokenizer.encode(" was")[0])),
        Rule(("token before", "token"), (tokenizer.encode(" a")[0], tokenizer.encode(" big")[0])),
        Rule(("story position",), (0,)),
    ]
    curvature = []
    for text in (train, unseen):
        holds = torch.stack([rule.holds(vocabulary.features(text)) for rule in rules])
        curvature.append(torch.rand(len(rules), *text.tokens.shape).pow(8) * 0.02 + holds)
    labels = label_directions(train, curvature[0], unseen, curvature[1], vocabulary)
    assert [label.text for label in labels] == ['"was" after a name', '"big" after "a"', "the first token of the story"]
    for label in labels:
        assert label.rule in rules
        assert label.share > 0.4
        assert label.base_rate < 0.01
        assert label.average_precision > 0.9
