"""Tokens as a person sees them."""

import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from byte_tokenizer import ByteTokenizer

from eigen_lightning.data.windows import TextWindows

STORY = "“Hi,” said Zoë. 🎈🎈\nIt’s ok… 日本語 costs € 5 .\n\nThe  end\r\n\U0001f9d1\u200d\U0001f680 and 龘!"


def windows_of(tokenizer: Any, length: int, story: str = STORY) -> TextWindows:
    """Every window of a story, one token apart."""
    ids = tokenizer([story], add_special_tokens=False)["input_ids"][0]
    firsts = range(len(ids) - length + 1)
    windows = torch.tensor([ids[first : first + length] for first in firsts], dtype=torch.int32)
    return TextWindows("heldout", 100, windows, tokenizer, [story] * len(firsts), firsts)


def tokenizer_of(kind: str, request: pytest.FixtureRequest) -> Any:
    if kind == "bytes":
        return ByteTokenizer()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(request.getfixturevalue(kind)))


def show(text: str) -> str:
    return text.replace("\n", "↵").replace("\r", "␍")


@pytest.mark.parametrize("kind", ["bytes", "gpt2_tokenizer_folder", "stories260k_folder"])
@pytest.mark.parametrize("length", [5, 16])
def test_parts_join_to_the_window_wherever_it_is_cut(kind: str, length: int, request: pytest.FixtureRequest) -> None:
    tokenizer = tokenizer_of(kind, request)
    samples = windows_of(tokenizer, length)
    for sample_id in range(100, 100 + len(samples)):
        strings = samples.tokens(sample_id)
        assert len(strings) == length
        whole = samples.describe(sample_id)["text"]
        assert "".join(strings) == whole
        assert whole in show(STORY)
        for position in range(length):
            shown = samples.describe(sample_id, position)
            assert shown["text"] == shown["before"] + shown["token"] + shown["after"]
            assert shown["text"] in whole
            assert shown["token_id"] == samples.windows[sample_id - 100, position]
            assert shown["position"] == position


def decoded_bytes(tokenizer: Any, ids: list[int]) -> list[bytes]:
    """The bytes of each token of a byte-level encoding, by GPT-2's own table of bytes and letters."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [*map(chr, plain), *(chr(256 + number) for number in range(256 - len(plain)))]
    table = dict(zip(letters, [*plain, *(byte for byte in range(256) if byte not in plain)], strict=True))
    return [bytes(table[letter] for letter in token) for token in tokenizer.convert_ids_to_tokens(ids)]


def test_tokens_are_the_characters_that_their_bytes_belong_to(gpt2_tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gpt2_tokenizer_folder))
    samples = windows_of(tokenizer, 7)
    parts = decoded_bytes(tokenizer, tokenizer([STORY])["input_ids"][0])
    bounds = [0, *accumulate(map(len, parts))]
    # The character that each byte is part of.
    character = [number for number, letter in enumerate(STORY) for _ in letter.encode()]
    split = 0
    for sample_id in range(100, 100 + len(samples)):
        for position in range(7):
            token = sample_id - 100 + position
            first, last = character[bounds[token]], character[bounds[token + 1] - 1]
            split += len(parts[token]) < len(STORY[first : last + 1].encode())
            assert samples.describe(sample_id, position)["token"] == show(STORY[first : last + 1])
    assert split > 100


def test_a_character_split_over_tokens_is_shown_whole_at_each(gpt2_tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    samples = windows_of(AutoTokenizer.from_pretrained(str(gpt2_tokenizer_folder)), 8)
    assert samples.tokens(100) == ["", "“", "Hi", ",", "", "”", " said", " Zo"]
    for position in (4, 5):
        shown = samples.describe(100, position)
        assert (shown["before"], shown["token"], shown["after"]) == ("“Hi,", "”", " said Zo")
        assert shown["previous_token"] == ","
    # A window that begins within a character.
    assert samples.describe(101, 0)["token"] == "“"
    assert samples.describe(101, 0)["previous_token"] == ""
    assert samples.describe(101, 1)["previous_token"] == "“"


def test_blanks_that_a_tokenizer_leaves_to_no_token_belong_to_the_next() -> None:
    class Words(ByteTokenizer):
        def __call__(self, stories: list[str], **_: object) -> dict[str, list]:
            spans = [[match.span() for match in re.finditer(r"\w+", story)] for story in stories]
            return {"input_ids": [[end for _, end in places] for places in spans], "offset_mapping": spans}

    samples = windows_of(Words(), 2, "one  two three")
    assert samples.tokens(100) == ["one", "  two"]
    assert samples.describe(101, 1)["text"] == "  two three"


def test_context_is_fifteen_tokens_before_and_four_after_with_line_ends_visible() -> None:
    samples = windows_of(ByteTokenizer(), 40, "abcdefghijklmnopqrstuvwxyz\n0123456789ABC")
    shown = samples.describe(100, 26)
    assert shown == {
        "text": "lmnopqrstuvwxyz↵0123",
        "before": "lmnopqrstuvwxyz",
        "token": "↵",
        "after": "0123",
        "position": 26,
        "token_id": 10,
        "previous_token": "z",
    }
    start = samples.describe(100, 0)
    assert (start["before"], start["token"], start["after"], start["previous_token"]) == ("", "a", "bcde", "")
    end = samples.describe(100, 39)
    assert (end["token"], end["after"]) == ("C", "")


def test_samples_and_positions_that_are_not_there_are_refused() -> None:
    samples = windows_of(ByteTokenizer(), 4, "abcdef")
    assert samples.describe(102)["text"] == "cdef"
    for sample_id in (99, 103):
        with pytest.raises(IndexError, match=f"sample {sample_id} is not in 'heldout'"):
            samples.describe(sample_id)
    for position in (-1, 4):
        with pytest.raises(IndexError, match=f"position {position} of a window of 4 tokens"):
            samples.describe(100, position)
