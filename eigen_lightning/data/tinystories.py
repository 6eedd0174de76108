"""Stories as windows of tokens, split into training and held-out stories."""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Int
from lightning.pytorch.utilities import rank_zero_only

from eigen_lightning.data.stories import END_OF_TEXT, absolute, check_source, local_path, read_stories
from eigen_lightning.data.stream import SampleSet, SampleStream, check_positive
from eigen_lightning.data.tokenizer import check_tokenizer, end_of_text_markers, load_tokenizer
from eigen_lightning.data.windows import TextWindows, WindowCollector
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.waiting import Waiting

TEXTS_AT_ONCE = 256
"""Texts per call of the tokenizer: enough for its threads, few enough to stop reading soon."""

warn = rank_zero_only(logging.getLogger(__name__).warning)


class TinyStories(SampleStream):
    """Windows of text, from TinyStories or any other set of stories.

    Stories are split between training and "heldout" by a hash of their text, and no story is taken twice: the two
    sides share none. Each story is cut into consecutive windows of ``context_length`` tokens; what is left at its end
    is dropped, so that no window spans two stories; a text that holds the tokenizer's end-of-text token is several
    stories. Reading stops once there are enough windows.

    Source: Eldan and Li, "TinyStories: How Small Can Language Models Be and Still Speak Coherent English?", 2023.

    Attributes:
        source, heldout, tokenizer: as arguments, paths absolute, so that they mean the same from another folder.
    """

    train_set: TextWindows
    evaluation_sets: dict[str, TextWindows]  # type: ignore[assignment]

    def __init__(
        self,
        source: str = "roneneldan/TinyStories",
        heldout: str | None = None,
        context_length: int = 16,
        n_sequences: int | None = None,
        n_heldout_sequences: int | None = None,
        heldout_fraction: float = 0.1,
        windows_per_story: int | None = None,
        tokenizer: str | None = None,
        story_marker: str = END_OF_TEXT,
        text_column: str = "text",
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            source: a ``.txt``, ``.jsonl`` or ``.parquet`` file, a folder of such files (those for training have
                "train" as a word in their path), or a data set on the Hugging Face Hub, which is streamed.
            heldout: the same for held-out stories, or the name of a split of ``source``; where None, or the same as
                ``source``, a part of the stories is held out.
            context_length: tokens a window.
            n_sequences: training windows; all that the stories give where None.
            n_heldout_sequences: held-out windows; as ``n_sequences`` where None.
            heldout_fraction: share of the stories held out, in (0, 1); unused where ``heldout`` names others.
            windows_per_story: windows taken from one story at most, chosen by chance; all where None.
            tokenizer: name or folder of a tokenizer; the target's own where None.
            story_marker: the line that ends a story in a ``.txt`` file.
            text_column: the column or key that holds the text in other sources.
            batch_size: windows a step, over all devices.
            num_workers: processes that load ahead, for each loader; 0 is fastest here, as windows are in memory.
            seed: seed of the split, the choice of windows and their order; the run's seed where None.

        Raises:
            UserError: where a number is out of range, or a file is missing, empty or of an unknown kind.
        """
        super().__init__(batch_size, num_workers, seed)
        if context_length < 2:
            raise UserError(
                f"expected a context_length of at least 2 tokens, got {context_length}; at the first token nothing "
                "has been attended to yet. Use 16, say"
            )
        check_positive(
            n_sequences=n_sequences, n_heldout_sequences=n_heldout_sequences, windows_per_story=windows_per_story
        )
        if not story_marker.strip():
            raise UserError(f"expected a story_marker with visible characters, got {story_marker!r}")
        check_source(source, "source")
        if heldout is not None:
            check_source(heldout, "heldout")
        self.source = absolute(source)
        self.heldout = heldout and absolute(heldout)
        self.heldout_fraction = heldout_fraction
        if self.divides_source and not 0 < heldout_fraction < 1:
            raise UserError(f"expected a heldout_fraction in (0, 1), got {heldout_fraction}; use 0.1, or set heldout")
        self.context_length = context_length
        self.n_sequences = n_sequences
        self.n_heldout_sequences = n_sequences if n_heldout_sequences is None else n_heldout_sequences
        self.windows_per_story = windows_per_story
        self.tokenizer = tokenizer and absolute(tokenizer)
        self.story_marker = story_marker
        self.text_column = text_column

    @property
    def heldout_source(self) -> tuple[str, str]:
        """What held-out stories are read from, and which split of it."""
        if self.heldout is None or self.heldout == self.source:
            return self.source, "train"
        path = local_path(self.source)
        source_has_splits = path is None or path.is_dir()
        if source_has_splits and local_path(self.heldout) is None and "/" not in self.heldout:
            return self.source, self.heldout
        return self.heldout, "train"

    @property
    def divides_source(self) -> bool:
        """Whether training and held-out stories are read from the same place."""
        source, split = self.heldout_source
        return split == "train" and os.path.realpath(source) == os.path.realpath(self.source)

    def sample_sets(self, seed: int) -> tuple[SampleSet, dict[str, SampleSet]]:
        tokenizer = self._tokenizer()
        train = self._collector(tokenizer, self.n_sequences, seed)
        heldout = self._collector(tokenizer, self.n_heldout_sequences, seed)
        markers = end_of_text_markers(tokenizer)
        if self.divides_source:
            if self.heldout is not None:
                message = "source and heldout are the same, %s: a share of %g of its stories is held out"
                warn(message, self.source, self.heldout_fraction)
            sides = {"train": train, "heldout": heldout}
            inside = collect(self._stories(self.source), markers, sides, lambda story: self._side_of(story, seed))
        else:
            inside = collect(self._stories(*self.heldout_source), markers, {"heldout": heldout}, lambda _: "heldout")
            # What is held out is passed over where it occurs in the training source too.
            inside += collect(self._stories(self.source), markers, {"train": train}, lambda _: "train", heldout.stories)
        if inside:
            message = "%d end-of-text tokens (%s) inside texts of %s: those texts are split there into stories"
            warn(message, inside, ", ".join(markers), self.source)
        train_set = self._finish("train", 0, train, self.source)
        return train_set, {"heldout": self._finish("heldout", len(train_set), heldout, self.heldout_source[0])}

    def identity(self) -> dict[str, Any]:
        sets = [self.train_set, *self.evaluation_sets.values()]
        return {samples.name: hashlib.sha256(samples.windows.numpy().tobytes()).hexdigest() for samples in sets}

    def _stories(self, source: str, split: str = "train") -> Iterator[str]:
        return read_stories(source, split=split, story_marker=self.story_marker, text_column=self.text_column)

    def _tokenizer(self) -> Any:
        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        return check_tokenizer(getattr(self.target, "tokenizer", None))

    def _collector(self, tokenizer: Any, wanted: int | None, seed: int) -> WindowCollector:
        def choose(story: str, count: int) -> Int[np.ndarray, " chosen"]:
            if self.windows_per_story is None or count <= self.windows_per_story:
                return np.arange(count)
            # A generator for each story: which others were read before makes no difference.
            chance = np.random.default_rng(derive_seed(seed, "windows", story_hash(story)))
            return np.sort(chance.choice(count, self.windows_per_story, replace=False))

        return WindowCollector(tokenizer, self.context_length, wanted, choose)

    def _side_of(self, story: str, seed: int) -> str:
        chance = derive_seed(seed, "heldout", story_hash(story)) / 2**63
        return "heldout" if chance < self.heldout_fraction else "train"

    def _finish(self, name: str, first_id: int, collector: WindowCollector, source: str) -> TextWindows:
        side = {"train": "training", "heldout": "held-out"}[name]
        samples = collector.windows(name, first_id)
        if collector.n_stories == 0:
            mend = f"give more stories, check that each ends in a line {self.story_marker!r} (in a .txt file)"
            if self.divides_source:
                mend += f", or change heldout_fraction ({self.heldout_fraction})"
            raise UserError(f"expected at least one {side} story in {source!r}, got none; {mend}")
        if not len(samples):
            raise UserError(
                f"expected {side} stories of at least {self.context_length} tokens in {source!r}, "
                f"got {collector.n_stories}, the longest of {collector.longest_story}; use a smaller context_length"
            )
        if collector.wanted is not None and len(samples) < collector.wanted:
            message = "%s gives %d %s windows of %d tokens, fewer than the %d asked for; going on with those"
            warn(message, source, len(samples), side, self.context_length, collector.wanted)
        return samples


def story_hash(story: str) -> int:
    """64 bits that tell stories apart."""
    return int.from_bytes(hashlib.blake2b(story.encode(), digest_size=8).digest(), "big")


def collect(
    texts: Iterator[str],
    markers: list[str],
    collectors: Mapping[str, WindowCollector],
    side_of: Callable[[str], str],
    excluded: Iterable[str] = (),
) -> int:
    """Hand each story to its side's collector, the same story once only, until every side has enough.

    Args:
        texts: what to read.
        markers: what ends a story within a text.
        collectors: one for each side.
        side_of: the side of a story.
        excluded: stories to pass over.

    Returns:
        How many markers stand between two stories.
    """
    inside = 0
    seen = set(map(story_hash, excluded))
    boundary = re.compile("|".join(map(re.escape, markers)))
    wanted = [collector.wanted for collector in collectors.values()]
    total = None if None in wanted else sum(filter(None, wanted))
    with Waiting("Reading and tokenizing stories", total) as waiting:
        while not all(collector.full for collector in collectors.values()):
            chunk = list(islice(texts, TEXTS_AT_ONCE))
            if not chunk:
                break
            new: dict[str, list[str]] = {side: [] for side in collectors}
            for text in chunk:
                stories = list(filter(None, map(str.strip, boundary.split(text))))
                inside += max(0, len(stories) - 1)
                for story in stories:
                    identity = story_hash(story)
                    if identity not in seen:
                        seen.add(identity)
                        new[side_of(story)].append(story)
            for side, collector in collectors.items():
                collector.add(new[side])
            waiting.reach(sum(len(collector.stories) for collector in collectors.values()))
    return inside
