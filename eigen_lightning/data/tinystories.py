"""Stories as windows of tokens, split into training and held-out stories."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from eigen_lightning.data.stories import check_source, is_local, read_stories
from eigen_lightning.data.stream import SampleSet, SampleStream
from eigen_lightning.data.windows import TextWindows, WindowCollector
from eigen_lightning.run.errors import UserError, nearest
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.waiting import Waiting

log = logging.getLogger(__name__)


class TinyStories(SampleStream):
    """Windows of text, from TinyStories or any other set of stories.

    Stories are split between training and "heldout" by a hash of their text, and no story is taken twice: the two
    sides share none. Each story is cut into consecutive windows of ``context_length`` tokens; what is left at its end
    is dropped, so that no window spans two stories. Reading stops once there are enough windows.

    Source: Eldan and Li, "TinyStories: How Small Can Language Models Be and Still Speak Coherent English?", 2023.
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
        story_marker: str = "<|endoftext|>",
        text_column: str = "text",
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            source: a ``.txt``, ``.jsonl`` or ``.parquet`` file, a folder that holds a data set, or a data set on the
                Hugging Face Hub, which is streamed.
            heldout: the same for held-out stories, or the name of a split of ``source``; where None, a part of the
                stories is held out.
            context_length: tokens a window.
            n_sequences: training windows; all that the stories give where None.
            n_heldout_sequences: held-out windows; as ``n_sequences`` where None.
            heldout_fraction: share of the stories held out, in (0, 1); unused where ``heldout`` is given.
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
        counts = {
            "n_sequences": n_sequences,
            "n_heldout_sequences": n_heldout_sequences,
            "windows_per_story": windows_per_story,
        }
        for field, count in counts.items():
            if count is not None and count < 1:
                raise UserError(f"expected {field} of at least 1, got {count}; leave it out for all")
        if heldout is None and not 0 < heldout_fraction < 1:
            raise UserError(f"expected a heldout_fraction in (0, 1), got {heldout_fraction}; use 0.1, or give heldout")
        if not story_marker.strip():
            raise UserError(f"expected a story_marker with visible characters, got {story_marker!r}")
        check_source(source, "source")
        if heldout is not None:
            check_source(heldout, "heldout")
        self.source = source
        self.heldout = heldout
        self.context_length = context_length
        self.n_sequences = n_sequences
        self.n_heldout_sequences = n_sequences if n_heldout_sequences is None else n_heldout_sequences
        self.heldout_fraction = heldout_fraction
        self.windows_per_story = windows_per_story
        self.tokenizer = tokenizer
        self.story_marker = story_marker
        self.text_column = text_column

    def sample_sets(self, seed: int) -> tuple[SampleSet, dict[str, SampleSet]]:
        tokenizer = self._load_tokenizer()
        train = self._collector(tokenizer, self.n_sequences, seed)
        heldout = self._collector(tokenizer, self.n_heldout_sequences, seed)
        used: set[int] = set()
        if self.heldout is None:
            sides = {"train": train, "heldout": heldout}
            collect(self._stories(self.source), sides, lambda story: self._side_of(story, seed), used)
        else:
            # Held-out stories first: those that occur in the training source too are then passed over there.
            collect(self._heldout_stories(), {"heldout": heldout}, lambda story: "heldout", used)
            collect(self._stories(self.source), {"train": train}, lambda story: "train", used)
        train_windows = self._finish("training", train, self.source)
        heldout_windows = self._finish("held-out", heldout, self.heldout or self.source)
        return (
            TextWindows("train", 0, train_windows, tokenizer),
            {"heldout": TextWindows("heldout", len(train_windows), heldout_windows, tokenizer)},
        )

    def identity(self) -> dict[str, Any]:
        sets = [self.train_set, *self.evaluation_sets.values()]
        return {samples.name: hashlib.sha256(samples.windows.numpy().tobytes()).hexdigest() for samples in sets}

    def _stories(self, source: str, split: str = "train") -> Iterator[str]:
        return read_stories(source, split=split, story_marker=self.story_marker, text_column=self.text_column)

    def _heldout_stories(self) -> Iterator[str]:
        assert self.heldout is not None
        source_has_splits = not is_local(self.source) or Path(self.source).expanduser().is_dir()
        if source_has_splits and not is_local(self.heldout) and "/" not in self.heldout:
            return self._stories(self.source, split=self.heldout)
        return self._stories(self.heldout)

    def _load_tokenizer(self) -> Any:
        if self.tokenizer is None:
            module = self.trainer.lightning_module if self.trainer is not None else None
            tokenizer = getattr(getattr(module, "target", None), "tokenizer", None)
            if tokenizer is None:
                raise UserError(
                    "expected a target with a tokenizer, got one without; set data.tokenizer to a name or folder"
                )
            return tokenizer
        from transformers import AutoTokenizer

        folder = Path(self.tokenizer).expanduser()
        if is_local(self.tokenizer) and not folder.is_dir():
            siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
            hint = nearest(folder.name, siblings) or "; check the path, or leave it out to use the target's"
            raise UserError(f"expected a tokenizer's folder, got {self.tokenizer!r}, which does not exist{hint}")
        try:
            return AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else self.tokenizer)
        # What transformers raises for a folder or name that holds no tokenizer, or without a network.
        except (OSError, ValueError) as error:
            raise UserError(
                f"expected a tokenizer in {self.tokenizer!r}, got: {str(error).splitlines()[0]}; "
                "name a folder that has tokenizer.json, or leave it out to use the target's"
            ) from error

    def _collector(self, tokenizer: Any, wanted: int | None, seed: int) -> WindowCollector:
        def choose(story: str, count: int) -> slice | np.ndarray:
            if self.windows_per_story is None or count <= self.windows_per_story:
                return slice(count)
            # A generator for each story: which others were read before makes no difference.
            chance = np.random.default_rng(derive_seed(seed, "windows", story_hash(story)))
            return np.sort(chance.choice(count, self.windows_per_story, replace=False))

        return WindowCollector(tokenizer, self.context_length, wanted, choose)

    def _side_of(self, story: str, seed: int) -> str:
        chance = derive_seed(seed, "heldout", story_hash(story)) / 2**63
        return "heldout" if chance < self.heldout_fraction else "train"

    def _finish(self, side: str, collector: WindowCollector, source: str) -> Int[Tensor, "windows context_length"]:
        windows = collector.windows()
        if collector.stories == 0:
            mend = f"give more stories, check that each ends in a line {self.story_marker!r} (in a .txt file)"
            if self.heldout is None:
                mend += f", or change heldout_fraction ({self.heldout_fraction})"
            raise UserError(f"expected at least one {side} story in {source!r}, got none; {mend}")
        if not len(windows):
            raise UserError(
                f"expected {side} stories of at least {self.context_length} tokens in {source!r}, "
                f"got {collector.stories}, the longest of {collector.longest_story}; use a smaller context_length"
            )
        if collector.wanted is not None and len(windows) < collector.wanted:
            rank_zero_only(log.warning)(
                "%s gives %d %s windows of %d tokens, fewer than the %d asked for; going on with those",
                source,
                len(windows),
                side,
                self.context_length,
                collector.wanted,
            )
        return windows


def story_hash(story: str) -> int:
    """64 bits that tell stories apart."""
    return int.from_bytes(hashlib.blake2b(story.encode(), digest_size=8).digest(), "big")


def collect(
    stories: Iterator[str],
    collectors: Mapping[str, WindowCollector],
    side_of: Callable[[str], str],
    used: set[int],
) -> None:
    """Hand each story to its side's collector until every side has enough.

    Args:
        stories: what to read.
        collectors: one for each side.
        side_of: the side of a story.
        used: hashes of stories that were taken already and are passed over; grows.
    """
    wanted = [collector.wanted for collector in collectors.values()]
    total = None if None in wanted else sum(filter(None, wanted))
    with Waiting("Reading and tokenizing stories", total) as waiting:
        for story in stories:
            if all(collector.full for collector in collectors.values()):
                break
            identity = story_hash(story)
            if identity in used:
                continue
            used.add(identity)
            collector = collectors[side_of(story)]
            if not collector.full:
                collector.add(story)
            waiting.reach(sum(collector.count for collector in collectors.values()))
