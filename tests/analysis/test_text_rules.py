"""Classes of tokens, features of positions, and rules in words, on texts small enough to read."""

import pytest
import torch

from eigen_lightning.analysis.text_rules import (
    FAMILIES,
    NONE,
    Rule,
    Text,
    Vocabulary,
    position_range,
    range_name,
    token_strings,
)
from eigen_lightning.analysis.token_classes import CLASSES, GROUPS, token_class

WORDS = [
    "The",
    " dog",
    " saw",
    " Lily",
    ".",
    " She",
    " said",
    ",",
    ' "',
    "Yes",
    '."',
    "\n",
    " the",
    " yes",
    " Rose",
    "ly",
]
ID = {word: number for number, word in enumerate(WORDS)}


def text_of(*windows: list[str], offset: list[int] | None = None) -> Text:
    tokens = torch.tensor([[ID[word] for word in window] for window in windows], dtype=torch.int32)
    return Text(tokens, offset and torch.tensor(offset))


def vocabulary_of(*texts: Text) -> Vocabulary:
    return Vocabulary(dict(enumerate(WORDS)), texts)


@pytest.mark.parametrize(
    ("string", "expected"),
    [
        (" she", "a pronoun"),
        ("She", "a pronoun"),
        ("he", "a word's continuation"),
        (" the", "a determiner"),
        ("A", "a determiner"),
        (" Lily", "another capitalized word"),
        (" ran", "another lower-case word"),
        ("ily", "a word's continuation"),
        ("'s", "a contraction"),
        ("n't", "a contraction"),
        (".", "the end of a sentence"),
        ('!"', "the end of a sentence"),
        (' "', "a quotation mark"),
        ("”", "a quotation mark"),
        (',"', "other punctuation"),
        (" -", "other punctuation"),
        ("\n\n", "a line end"),
        (" 12", "a number"),
        (" ", "another symbol"),
        ("", "another symbol"),
        ("\ufffd", "another symbol"),
        (" a1", "another symbol"),
        (" été", "another lower-case word"),
    ],
)
def test_the_class_of_a_token(string: str, expected: str) -> None:
    assert token_class(string) == expected


def test_a_name_is_capitalized_within_sentences_more_often_than_lower_case() -> None:
    text = text_of(
        ["The", " dog", " saw", " Lily", ".", " She", " said", ",", ' "', "Yes"],
        ["\n", "Yes", " the", " dog", ".", " Rose", " said", " yes", " the", " dog"],
    )
    vocabulary = vocabulary_of(text)
    names = [word for word, number in ID.items() if vocabulary.classes[number] == CLASSES.index("a name")]
    assert names == [" Lily"]
    assert vocabulary.classes[ID[" Rose"]] == CLASSES.index("another capitalized word")
    named = vocabulary_of(text, text_of(["The", " dog", " Rose"]))
    assert named.classes[ID[" Rose"]] == CLASSES.index("a name")
    assert [GROUPS[vocabulary.groups[ID[word]]] for word in (" Lily", " She", "The", " saw", ' "', "\n", "ly")] == [
        *["a capitalized word"] * 3,
        "a lower-case word",
        "punctuation",
        *["another kind of token"] * 2,
    ]


def test_features_are_what_stands_there() -> None:
    window = ["The", " dog", ".", " She", " said", ",", ' "', "Yes", '."', "\n", " Lily"]
    text = text_of(window, offset=[0])
    found = {name: values[0].tolist() for name, values in vocabulary_of(text).features(text).items()}
    ids = [ID[word] for word in window]
    assert found["token"] == ids
    assert found["token before"] == [NONE, *ids[:-1]]
    assert found["token two back"] == [NONE, NONE, *ids[:-2]]
    assert found["class before"] == [NONE, *found["class"][:-1]]
    assert found["window position"] == found["story position"] == [0, 1, 2, 3, 4, 4, 4, 4, 5, 5, 5]
    # A sentence begins after the end of another, in a quotation, and on a new line.
    assert found["sentence position"] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 0, 0]


def test_where_the_story_is_not_known_to_begin_positions_in_it_are_not_there() -> None:
    window = [" dog", ".", " She", " said"]
    unknown = vocabulary_of(text_of(window)).features(text_of(window))
    assert "story position" not in unknown
    assert unknown["sentence position"].tolist() == [[NONE, NONE, 0, 1]]
    later = text_of(window, offset=[9])
    known = vocabulary_of(later).features(later)
    assert known["story position"].tolist() == position_range(torch.tensor([[9, 10, 11, 12]])).tolist()
    assert known["sentence position"].tolist() == [[NONE, NONE, 0, 1]]


def test_positions_lie_in_the_ranges_that_are_named() -> None:
    names = [range_name(int(value)) for value in position_range(torch.arange(20))]
    exact = ["the first token", "the second token", "the third token", "the fourth token"]
    assert names == [*exact, *["tokens 5 to 8"] * 4, *["tokens 9 to 16"] * 8, *["tokens 17 to 32"] * 4]
    assert position_range(torch.tensor([NONE])).item() == NONE


@pytest.mark.parametrize(
    ("features", "values", "words", "needs_context"),
    [
        (("token",), (ID[" Lily"],), '"Lily"', False),
        (("token",), (ID['."'],), "'.\"'", False),
        (("token",), (ID["\n"],), '"↵"', False),
        (("token",), (ID["ly"],), '"…ly"', False),
        (("class",), (CLASSES.index("a name"),), "a name", False),
        (("group",), (GROUPS.index("punctuation"),), "punctuation", False),
        (("token before",), (ID[" said"],), 'what follows "said"', True),
        (("class before",), (CLASSES.index("a name"),), "what follows a name", True),
        (("group before",), (GROUPS.index("punctuation"),), "what follows punctuation", True),
        (("token two back",), (ID[" said"],), 'the second token after "said"', True),
        (("class before", "token"), (CLASSES.index("a name"), ID[" said"]), '"said" after a name', True),
        (("token before", "class"), (ID[" saw"], CLASSES.index("a name")), 'a name after "saw"', True),
        (("class before", "class"), (0, CLASSES.index("a name")), "a name after a pronoun", True),
        (("token before", "token"), (ID[" the"], ID[" dog"]), '"dog" after "the"', True),
        (("window position",), (0,), "the first token of the window", True),
        (("story position",), (5,), "tokens 9 to 16 of the story", True),
        (("sentence position",), (1,), "the second token of the sentence", True),
    ],
)
def test_rules_in_words(features, values, words, needs_context) -> None:
    rule = Rule(features, values)
    assert features in FAMILIES
    assert vocabulary_of().describe(rule) == words
    assert rule.needs_context is needs_context
    assert rule.to_json() == {"features": list(features), "values": list(values)}


def test_a_rule_holds_where_each_feature_has_its_value() -> None:
    text = text_of([" the", " dog", " saw", " the", " the", " dog"])
    rule = Rule(("token before", "token"), (ID[" the"], ID[" dog"]))
    assert rule.holds(vocabulary_of(text).features(text)).int().tolist() == [[0, 1, 0, 0, 0, 1]]


def test_strings_have_their_blank_where_the_tokenizer_strips_it() -> None:
    pieces = {1: " dog", 2: "ly", 3: "."}
    decode = lambda ids: "".join(pieces[number] for number in ids).removeprefix(" ")  # noqa: E731
    assert token_strings([3, 1, 1, 2], decode) == pieces
