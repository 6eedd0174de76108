"""Text of a small grammar with planted regularities, written for this package: what comes next is known at every word.

A tale introduces somebody with a thing; the sentences after it return to both, agree in number across a phrase, open
and close quotation marks, enumerate, and name opposites. At each word the grammar is in a state that decides what may
follow. Some states the word alone decides ("has" is followed by "a"); the others need context ("the" after "likes" is
followed by the thing that the tale began with), and are what a network has to compute.
"""

import random
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

NAMES = {"girl": ("lily", "anna", "mia", "sue"), "boy": ("tom", "ben", "max", "sam")}
PRONOUNS = {"girl": "she", "boy": "he"}
THINGS = ("ball", "box", "hat", "kite")
ADJECTIVES = ("red", "blue", "big", "small")
ANIMALS = ("cat", "dog", "bird", "frog")
PLACES = ("house", "tree", "lake", "barn")
OPPOSITES = {"happy": "sad", "sad": "happy", "hot": "cold", "cold": "hot"}
SOUNDS = ("hello", "yes", "no", "look")

DECIDED_BY_WORD = (
    "once", "has", "a", "likes", "because", "it", "not", "near", "run", "runs", "away", "there", "are", "and",
    "said", "to", "sound",
)  # fmt: skip

NEED_CONTEXT = (
    "name after once", "name later", "adjective before thing", "adjective at end", "thing first", "thing again",
    "sentence end, girl", "sentence end, boy", "the before animal, subject", "the before animal, object",
    "the before place", *(f"the before {thing}" for thing in THINGS), "is before not",
    *(f"is before {adjective}" for adjective in ADJECTIVES), *(f"is before {mood}" for mood in OPPOSITES),
    "pronoun first", "pronoun again", "mood first", "mood opposite", "comma before she", "comma before he",
    "comma in list", "place after singular", "place after plural", "animal as subject", "animal as object",
    "animal first in list", "animal second in list", "animal last in list", "quote opens", "quote closes",
)  # fmt: skip

STATES = (*DECIDED_BY_WORD, *NEED_CONTEXT)
"""What the grammar can be at; a word's state decides what may follow it."""

CONTEXT_STATES: Bool[np.ndarray, " states"] = np.arange(len(STATES)) >= len(DECIDED_BY_WORD)
"""Which of :data:`STATES` the current word alone does not decide."""

WORDS = tuple(
    dict.fromkeys(
        [".", ",", '"', "once", "has", "a", "likes", "the", "because", "it", "is", "not", "near", "run", "runs", "away",
         "there", "are", "and", "said", "to", *PRONOUNS.values(), *NAMES["girl"], *NAMES["boy"], *THINGS, *ADJECTIVES,
         *ANIMALS, *(f"{animal}s" for animal in ANIMALS), *PLACES, *OPPOSITES, *SOUNDS]
    )
)  # fmt: skip
"""The whole vocabulary."""

_NUMBER = {state: number for number, state in enumerate(STATES)}


@dataclass
class Story:
    """Words with the state of the grammar at each.

    Attributes:
        words: in order.
        states: of each word, an index of :data:`STATES`.
        since: the first word that each state depends on: a window that begins later cannot know it.
        nats: what each word costs whoever knows the grammar and all words before it.
    """

    words: list[str] = field(default_factory=list)
    states: list[int] = field(default_factory=list)
    since: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The words with blanks between them."""
        return " ".join(self.words)

    def say(self, word: str, state: str, back_to: int | None = None, ways: float = 1.0) -> int:
        """Add a word; returns its place.

        Args:
            word: what is said.
            state: of :data:`STATES`, after it.
            back_to: the place of the first word that the state depends on; the word itself where None.
            ways: one over the word's probability.
        """
        place = len(self.words)
        self.words.append(word)
        self.states.append(_NUMBER[state])
        self.since.append(place if back_to is None else back_to)
        self.nats.append(float(np.log(ways)))
        return place

    def windows(self, length: int) -> tuple[Int[np.ndarray, "windows length"], Bool[np.ndarray, "windows length"]]:
        """States in consecutive windows, and whether each depends on words of its window alone."""
        count = len(self.words) // length
        states = np.array(self.states[: count * length]).reshape(count, length)
        since = np.array(self.since[: count * length]).reshape(count, length)
        return states, since >= (np.arange(count) * length)[:, None]


SENTENCES = ("likes", "mood", "agreement", "list", "quote", "new tale")
"""What may follow a sentence end, all as likely."""


def story(seed: int, length: int) -> Story:
    """A story of at least ``length`` words, tales one after another.

    Args:
        seed: the only source of chance.
        length: words after which no new sentence begins.
    """
    chance = random.Random(seed)
    told = Story()
    while len(told.words) < length:
        _tale(told, chance, length)
    return told


def _tale(told: Story, chance: random.Random, length: int) -> None:
    kind = chance.choice(("girl", "boy"))
    name, thing, adjective = chance.choice(NAMES[kind]), chance.choice(THINGS), chance.choice(ADJECTIVES)
    start = told.say("once", "once", ways=len(SENTENCES) if told.words else 1)
    who = told.say(name, "name after once", start, ways=8)
    told.say("has", "has")
    a = told.say("a", "a")
    which = told.say(adjective, "adjective before thing", a, ways=len(ADJECTIVES))
    what = told.say(thing, "thing first", which, ways=len(THINGS))
    told.say(".", f"sentence end, {kind}", who)
    while len(told.words) < length:
        sentence = chance.choice(SENTENCES)
        first = len(SENTENCES)
        if sentence == "new tale":
            return
        if sentence == "likes":
            # She likes, or she is: both begin with the pronoun.
            pronoun = told.say(PRONOUNS[kind], "pronoun first", len(told.words) - 1, ways=first / 2)
            likes = told.say("likes", "likes", ways=2)
            told.say("the", f"the before {thing}", min(what, likes))
            told.say(thing, "thing again", pronoun + 1)
            told.say("because", "because")
            it = told.say("it", "it")
            told.say("is", f"is before {adjective}", min(which, it))
            told.say(adjective, "adjective at end", it)
        elif sentence == "mood":
            mood = chance.choice(tuple(OPPOSITES))
            pronoun = told.say(PRONOUNS[kind], "pronoun first", len(told.words) - 1, ways=first / 2)
            told.say("is", "is before not", pronoun, ways=2)
            negation = told.say("not", "not")
            first_mood = told.say(mood, "mood first", negation, ways=len(OPPOSITES))
            told.say(",", f"comma before {PRONOUNS[kind]}", pronoun)
            again = told.say(PRONOUNS[kind], "pronoun again", first_mood + 1)
            told.say("is", f"is before {OPPOSITES[mood]}", first_mood)
            told.say(OPPOSITES[mood], "mood opposite", again)
        elif sentence == "agreement":
            plural = chance.random() < 0.5
            animal = chance.choice(ANIMALS) + ("s" if plural else "")
            the = told.say("the", "the before animal, subject", len(told.words) - 1, ways=first)
            subject = told.say(animal, "animal as subject", the, ways=2 * len(ANIMALS))
            near = told.say("near", "near")
            told.say("the", "the before place", near)
            number = "plural" if plural else "singular"
            told.say(chance.choice(PLACES), f"place after {number}", subject, ways=len(PLACES))
            told.say("run" if plural else "runs", "run" if plural else "runs")
            told.say("away", "away")
        elif sentence == "list":
            told.say("there", "there", ways=first)
            are = told.say("are", "are")
            one = told.say(f"{chance.choice(ANIMALS)}s", "animal first in list", are, ways=len(ANIMALS))
            comma = told.say(",", "comma in list", one)
            told.say(f"{chance.choice(ANIMALS)}s", "animal second in list", comma, ways=len(ANIMALS))
            joined = told.say("and", "and")
            told.say(f"{chance.choice(ANIMALS)}s", "animal last in list", joined, ways=len(ANIMALS))
        else:
            told.say(name, "name later", len(told.words) - 1, ways=first)
            said = told.say("said", "said")
            opening = told.say('"', "quote opens", said)
            told.say(chance.choice(SOUNDS), "sound", ways=len(SOUNDS))
            told.say('"', "quote closes", opening)
            to = told.say("to", "to")
            the = told.say("the", "the before animal, object", to)
            told.say(chance.choice(ANIMALS), "animal as object", the, ways=len(ANIMALS))
        told.say(".", f"sentence end, {kind}", who)
