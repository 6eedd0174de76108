"""Windows of tokens: cut from stories, looked up by number, shown as text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from eigen_lightning.data.stream import Batch, SampleSet
from eigen_lightning.data.tokenizer import encode
from eigen_lightning.report.text import visible

CONTEXT_BEFORE = 15
CONTEXT_AFTER = 4


class WindowCollector:
    """Cuts stories into windows until there are enough.

    Args:
        tokenizer: a fast transformers tokenizer.
        context_length: tokens a window.
        wanted: windows to collect at most; None for all.
        choose: which of a story's windows to take: called with the story and how many it has; ascending indices.

    Attributes:
        stories: the story of each window.
        n_stories: how many stories were tokenized.
        longest_story: tokens of the longest of them.
    """

    def __init__(
        self,
        tokenizer: Any,
        context_length: int,
        wanted: int | None,
        choose: Callable[[str, int], Int[np.ndarray, " chosen"]],
    ) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.wanted = wanted
        self.choose = choose
        self.stories: list[str] = []
        self.n_stories = 0
        self.longest_story = 0
        self._first_tokens: list[int] = []
        self._ids: list[np.ndarray] = [np.zeros((0, context_length), dtype=np.int32)]

    @property
    def full(self) -> bool:
        """Whether there are as many windows as wanted."""
        return self.wanted is not None and len(self.stories) >= self.wanted

    def add(self, stories: list[str]) -> None:
        """Take windows of more stories, in their order, unless full."""
        if self.full or not stories:
            return
        for story, ids in zip(stories, encode(self.tokenizer, stories)["input_ids"], strict=True):
            self.n_stories += 1
            self.longest_story = max(self.longest_story, len(ids))
            n_windows = len(ids) // self.context_length
            if n_windows:
                missing = None if self.wanted is None else self.wanted - len(self.stories)
                chosen = self.choose(story, n_windows)[:missing]
                windows = np.array(ids[: n_windows * self.context_length], dtype=np.int32)
                self._ids.append(windows.reshape(n_windows, self.context_length)[chosen])
                self.stories += [story] * len(chosen)
                self._first_tokens += (chosen * self.context_length).tolist()

    def windows(self, name: str, first_id: int) -> "TextWindows":
        """All windows in the order of the stories."""
        ids = torch.from_numpy(np.concatenate(self._ids))
        return TextWindows(name, first_id, ids, self.tokenizer, self.stories, self._first_tokens)


class TextWindows(SampleSet):
    """Windows of text, the same in every epoch. One position of one window is a token in its context.

    Attributes:
        windows: token ids, int32 [windows, context_length].
        tokenizer: the fast transformers tokenizer they come from.
        stories: the story each window is cut from.
        first_tokens: the number, in its story, of each window's first token.
    """

    repeats = True

    def __init__(
        self,
        name: str,
        first_id: int,
        windows: Int[Tensor, "windows context_length"],
        tokenizer: Any,
        stories: Sequence[str],
        first_tokens: Sequence[int],
    ) -> None:
        super().__init__(name, first_id)
        self.windows = windows
        self.tokenizer = tokenizer
        self.stories = stories
        self.first_tokens = first_tokens

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, epoch: int, indices: Int[Tensor, " batch"]) -> Batch:
        return Batch(self.windows[indices].long(), self.sample_ids(epoch, indices))

    def token_ids(self, sample_id: int) -> list[int]:
        """The window's token ids."""
        return self.windows[self.locate(sample_id)[1]].tolist()

    def tokens(self, sample_id: int) -> list[str]:
        """One string a token; joined, they are the window's text with line ends as "↵".

        Of a character split over several tokens the last holds it and the others hold none of it.
        """
        story, starts, ends = self._places(sample_id)
        return [visible(story[start:end]) for start, end in zip(starts, [*starts[1:], ends[-1]], strict=True)]

    def describe(self, sample_id: int, position: int | None = None) -> dict[str, Any]:
        """A token in its context, or a whole window.

        Args:
            sample_id: which window.
            position: which token of it.

        Returns:
            ``text``, the window's text where ``position`` is None; else the parts ``before``, ``token`` and ``after``
            (up to 15 tokens before and 4 after, in the same window) and ``text``, the three joined; ``position``,
            ``token_id``, and ``previous_token``, empty at the window's start. Line ends are shown as "↵"; a token
            that is part of a character is shown as the whole character.

        Raises:
            IndexError: where the set has no such window, or the window no such position.
        """
        story, starts, ends = self._places(sample_id)
        if position is None:
            return {"text": visible(story[starts[0] : ends[-1]])}
        if not 0 <= position < len(ends):
            raise IndexError(f"position {position} of a window of {len(ends)} tokens")
        start, end = starts[position], ends[position]
        before = visible(story[starts[max(0, position - CONTEXT_BEFORE)] : start])
        after = visible(story[end : ends[min(position + CONTEXT_AFTER, len(ends) - 1)]])
        token = visible(story[start:end])
        # Not a token of the same character.
        previous = max((other for other in range(position) if ends[other] <= start), default=None)
        return {
            "text": before + token + after,
            "before": before,
            "token": token,
            "after": after,
            "position": position,
            "token_id": self.token_ids(sample_id)[position],
            "previous_token": "" if previous is None else visible(story[starts[previous] : ends[previous]]),
        }

    def _places(self, sample_id: int) -> tuple[str, list[int], list[int]]:
        """The story of a window, and where in it each of the window's tokens starts and ends, in characters.

        Tokens that are parts of one character overlap: each spans the whole of it.
        """
        index = self.locate(sample_id)[1]
        story, first = self.stories[index], self.first_tokens[index]
        # Tokenized again rather than stored: places take more memory than token ids and few windows are ever shown.
        spans = encode(self.tokenizer, [story], return_offsets_mapping=True)["offset_mapping"][0]
        ends = [end for _, end in spans]
        # Some tokenizers leave the blanks between two tokens to neither.
        starts = [min(start, end_before) for (start, _), end_before in zip(spans, [0, *ends], strict=False)]
        window = slice(first, first + self.windows.shape[1])
        return story, starts[window], ends[window]
