"""Windows of tokens: cut from stories, looked up by number, shown as text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from eigen_lightning.data.stream import Batch, SampleSet

CONTEXT_BEFORE = 15
CONTEXT_AFTER = 4
REPLACEMENT = "\ufffd"
STORIES_AT_ONCE = 256
"""Stories per call of the tokenizer: enough for its threads, few enough to stop reading soon."""


class WindowCollector:
    """Cuts stories into windows until there are enough.

    Args:
        tokenizer: a transformers tokenizer.
        context_length: tokens a window.
        wanted: windows to collect at most; None for all.
        choose: which of a story's windows to keep: called with the story and how many it has.
    """

    def __init__(
        self,
        tokenizer: Any,
        context_length: int,
        wanted: int | None,
        choose: Callable[[str, int], slice | np.ndarray],
    ) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.wanted = wanted
        self.choose = choose
        self.count = 0
        self.stories = 0
        self.longest_story = 0
        self._waiting: list[str] = []
        self._parts: list[np.ndarray] = []

    @property
    def full(self) -> bool:
        """Whether there are as many windows as wanted."""
        return self.wanted is not None and self.count >= self.wanted

    def add(self, story: str) -> None:
        """Take one more story; stories are tokenized some at a time."""
        self._waiting.append(story)
        if len(self._waiting) == STORIES_AT_ONCE:
            self._tokenize()

    def windows(self) -> Int[Tensor, "windows context_length"]:
        """All windows in the order of the stories, int32, at most ``wanted``."""
        self._tokenize()
        if not self._parts:
            return torch.zeros(0, self.context_length, dtype=torch.int32)
        return torch.from_numpy(np.concatenate(self._parts))[: self.wanted]

    def _tokenize(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        # No special tokens: a window in the middle of a story has none either, and positions must mean the same in
        # all. `verbose` would warn of stories longer than the model's context, which windows never are.
        encoded = self.tokenizer(waiting, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for story, ids in zip(waiting, encoded["input_ids"], strict=True):
            self.stories += 1
            self.longest_story = max(self.longest_story, len(ids))
            count = len(ids) // self.context_length
            if count:
                cut = np.array(ids[: count * self.context_length], dtype=np.int32).reshape(count, self.context_length)
                self._parts.append(cut[self.choose(story, count)])
                self.count += len(self._parts[-1])


def character_spans(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[tuple[int, int, str]]:
    """Tokens as text: spans (start, end, text) of whole characters that cover ``ids``, most of them one token long.

    Encodings that fall back on bytes split a character over several tokens, none of which can be shown alone; those
    form one span. The texts joined are the text of all ``ids``. Where a window begins or ends within a character, the
    tokens left of it are spans of their own, shown as U+FFFD.

    Args:
        ids: token ids.
        decode: text of a run of token ids; bytes that are no character give U+FFFD.
    """
    spans: list[tuple[int, int, str]] = []
    start = 0
    while start < len(ids):
        before = spans[-1][0] if spans else 0
        tries = [(start + 1, _text_after(ids, before, start, start + 1, decode))]
        # UTF-8 has at most four bytes a character, so a character has at most four tokens.
        while REPLACEMENT in tries[-1][1] and tries[-1][0] < min(start + 4, len(ids)):
            end = tries[-1][0] + 1
            tries.append((end, _text_after(ids, before, start, end, decode)))
        end, text = tries[0] if REPLACEMENT in tries[-1][1] else tries[-1]
        spans.append((start, end, text))
        start = end
    return spans


def _text_after(ids: Sequence[int], before: int, start: int, end: int, decode: Callable[[Sequence[int]], str]) -> str:
    """The text of ``ids[start:end]`` where ``ids[before:start]`` stand in front of it."""
    # Some tokenizers strip the blank from the first token of a run, hence the tokens in front. Some turn a whole run
    # of bytes into U+FFFD where one character in it is incomplete, hence the second try without them.
    text = decode(ids[before:end])[len(decode(ids[before:start])) if start else 0 :]
    return decode(ids[start:end]) if REPLACEMENT in text else text


def visible(text: str) -> str:
    """Line ends as "↵", so that a token that is one can be seen; character by character, so that parts still join."""
    return text.replace("\r", "␍").replace("\n", "↵")


class TextWindows(SampleSet):
    """Windows of text, the same in every epoch. One position of one window is a token in its context.

    Attributes:
        windows: token ids, int32 [windows, context_length].
        tokenizer: the transformers tokenizer they come from.
    """

    repeats = True

    def __init__(
        self, name: str, first_id: int, windows: Int[Tensor, "windows context_length"], tokenizer: Any
    ) -> None:
        super().__init__(name, first_id)
        self.windows = windows
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, epoch: int, indices: Int[Tensor, " batch"]) -> Batch:
        return Batch(self.windows[indices].long(), self.sample_ids(epoch, indices))

    def token_ids(self, sample_id: int) -> list[int]:
        """The window's token ids."""
        return self.windows[self.locate(sample_id)[1]].tolist()

    def tokens(self, sample_id: int) -> list[str]:
        """One string a token; joined, they are the window's text with line ends as "↵".

        Of a character split over several tokens the last holds it and the others are empty.
        """
        strings = []
        for start, end, text in self._spans(sample_id):
            strings += [""] * (end - start - 1) + [visible(text)]
        return strings

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
        spans = self._spans(sample_id)
        if position is None:
            return {"text": "".join(visible(text) for _, _, text in spans)}
        ids = self.token_ids(sample_id)
        if not 0 <= position < len(ids):
            raise IndexError(f"position {position} of a window of {len(ids)} tokens")
        here = next(number for number, (_, end, _) in enumerate(spans) if position < end)
        start, end, token = spans[here]
        before = "".join(text for first, _, text in spans[:here] if first >= start - CONTEXT_BEFORE)
        after = "".join(text for _, last, text in spans[here + 1 :] if last <= end + CONTEXT_AFTER)
        return {
            "text": visible(before) + visible(token) + visible(after),
            "before": visible(before),
            "token": visible(token),
            "after": visible(after),
            "position": position,
            "token_id": ids[position],
            "previous_token": visible(spans[here - 1][2]) if here else "",
        }

    def _spans(self, sample_id: int) -> list[tuple[int, int, str]]:
        return character_spans(self.token_ids(sample_id), self._decode)

    def _decode(self, ids: Sequence[int]) -> str:
        # Cleaning up would drop blanks before punctuation, and the parts would no longer join.
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
