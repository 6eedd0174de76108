"""The small grammar: every word's state decides what follows, and costs what it says."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from eigen_lightning.data import Grammar
from eigen_lightning.data.grammar_text import (
    CONTEXT_STATES,
    DECIDED_BY_WORD,
    NEED_CONTEXT,
    OPPOSITES,
    PRONOUNS,
    STATES,
    WORDS,
    Story,
    story,
)
from eigen_lightning.run.errors import UserError

N = 400


@pytest.fixture(scope="module")
def told() -> list[Story]:
    return [story(seed, 96) for seed in range(N)]


def pairs(told: list[Story]) -> dict[str, Counter[str]]:
    """How often each word follows each state."""
    follows: dict[str, Counter[str]] = defaultdict(Counter)
    for each in told:
        for state, word in zip(each.states, each.words[1:], strict=False):
            follows[STATES[state]][word] += 1
    return follows


def test_all_words_and_states_occur(told: list[Story]) -> None:
    assert {word for each in told for word in each.words} == set(WORDS)
    assert {state for each in told for state in each.states} == set(range(len(STATES)))
    assert set(DECIDED_BY_WORD).isdisjoint(NEED_CONTEXT)


def test_the_state_decides_what_may_follow(told: list[Story]) -> None:
    follows = pairs(told)
    for state, expected in {
        "the before ball": {"ball"},
        "is before red": {"red"},
        "place after singular": {"runs"},
        "place after plural": {"run"},
        "quote opens": {"hello", "yes", "no", "look"},
        "quote closes": {"to"},
        "comma before she": {"she"},
        "name later": {"said"},
        "name after once": {"has"},
        "animal second in list": {"and"},
        "animal last in list": {"."},
        "adjective at end": {"."},
        "pronoun first": {"likes", "is"},
        "pronoun again": {"is"},
        **{f"is before {mood}": {mood} for mood in OPPOSITES},
    }.items():
        assert set(follows[state]) == expected, state
    assert PRONOUNS["boy"] not in follows["sentence end, girl"]
    assert PRONOUNS["girl"] not in follows["sentence end, boy"]


def test_which_states_need_context(told: list[Story]) -> None:
    """Whoever sees the current word alone and names its commonest state is right about those that it decides."""
    of_word: dict[str, Counter[int]] = defaultdict(Counter)
    for each in told:
        for word, state in zip(each.words, each.states, strict=True):
            of_word[word][state] += 1
    for number, name in enumerate(STATES):
        words = [word for word, states in of_word.items() if number in states]
        alone = all(len(of_word[word]) == 1 for word in words)
        assert alone == (not CONTEXT_STATES[number]), name


def test_nats_are_the_text_s_own_entropy(told: list[Story]) -> None:
    """The mean cost of the word after a state is the entropy of what follows it, where the state tells all."""
    costs: dict[str, list[float]] = defaultdict(list)
    for each in told:
        for state, nats in zip(each.states, each.nats[1:], strict=False):
            costs[STATES[state]].append(nats)
    for state in ("once", "a", "pronoun first", "quote opens", "the before place", "adjective before thing", "has"):
        counts = np.array(list(pairs(told)[state].values()))
        share = counts / counts.sum()
        entropy = float(-(share * np.log(share)).sum())
        assert float(np.mean(costs[state])) == pytest.approx(entropy, abs=0.02), state


def test_a_window_knows_the_states_whose_words_it_holds(told: list[Story]) -> None:
    states, known = told[0].windows(32)
    assert states.shape == known.shape == (len(told[0].words) // 32, 32)
    for window, first in enumerate(range(0, states.size, 32)):
        for place in range(32):
            since = told[0].since[first + place]
            assert known[window, place] == (since >= first)
            assert since <= first + place


def test_the_stream_is_reproducible_and_held_out_text_is_unseen() -> None:
    one, same, other = (Grammar(n_sequences=60, n_heldout_sequences=30, seed=seed) for seed in (3, 3, 4))
    for data in (one, same, other):
        data.setup()
    assert torch.equal(one.train_set.windows, same.train_set.windows)  # type: ignore[attr-defined]
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    heldout = one.evaluation_sets["heldout"]
    assert set(heldout.stories).isdisjoint(one.train_set.stories)  # type: ignore[attr-defined]
    shown = heldout.describe(heldout.first_id + 2, 5)
    words = heldout.tokens(heldout.first_id + 2)  # type: ignore[attr-defined]
    assert shown["token"].strip() == words[5].strip()
    assert len(words) == 32
    number = {word: index for index, word in enumerate(heldout.tokenizer.get_vocab())}  # type: ignore[attr-defined]
    assert len(number) == len(WORDS) + 2


def test_states_stand_at_their_words() -> None:
    data = Grammar(n_sequences=60, n_heldout_sequences=30, seed=0)
    data.setup()
    samples = data.train_set
    places = (samples.states == STATES.index("quote opens")).nonzero()  # type: ignore[attr-defined]
    assert len(places) > 5
    for window, position in places.tolist():
        assert samples.describe(samples.first_id + window, position)["token"].strip() == '"'


@pytest.mark.parametrize("wrong", [{"context_length": 1}, {"n_sequences": 0}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="expected"):
        Grammar(**wrong)


def test_chance_alone_costs_more() -> None:
    told = story(0, 500)
    assert 0 < float(np.mean(told.nats)) < math.log(len(WORDS)) / 4
