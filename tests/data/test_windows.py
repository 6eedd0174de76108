"""Tokens as a person sees them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from byte_tokenizer import ByteTokenizer

from eigen_lightning.data.windows import TextWindows

STORY = "“Hi,” said Zoë. 🎈🎈\nIt’s ok… 日本語 costs € 5 .\n\nThe  end\r\n"


def windows_of(tokenizer: Any, length: int, story: str = STORY) -> TextWindows:
    ids = tokenizer([story], add_special_tokens=False)["input_ids"][0]
    rows = [ids[i : i + length] for i in range(len(ids) - length + 1)]
    return TextWindows("heldout", 100, torch.tensor(rows, dtype=torch.int32), tokenizer)


def tokenizer_of(kind: str, request: pytest.FixtureRequest) -> Any:
    if kind == "bytes":
        return ByteTokenizer()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(request.getfixturevalue(kind)))


@pytest.mark.parametrize("kind", ["bytes", "gpt2_tokenizer_folder", "stories260k_folder"])
@pytest.mark.parametrize("length", [5, 16])
def test_parts_join_to_the_window_wherever_it_is_cut(kind: str, length: int, request: pytest.FixtureRequest) -> None:
    tokenizer = tokenizer_of(kind, request)
    samples = windows_of(tokenizer, length)
    clean = 0
    for sample_id in range(100, 100 + len(samples)):
        whole = tokenizer.decode(samples.token_ids(sample_id), clean_up_tokenization_spaces=False)
        whole = whole.replace("\n", "↵").replace("\r", "␍")
        strings = samples.tokens(sample_id)
        assert len(strings) == length
        # What the window cuts off of a character is shown as such, and its neighbours are not.
        assert all(string.count("\ufffd") <= 1 for string in strings)
        if "\ufffd" not in whole:
            clean += 1
            assert "".join(strings) == whole
            assert not any("\ufffd" in string for string in strings)
        assert samples.describe(sample_id) == {"text": "".join(strings)}
        for position in range(length):
            shown = samples.describe(sample_id, position)
            assert shown["text"] == shown["before"] + shown["token"] + shown["after"]
            assert shown["text"] in "".join(strings)
            assert shown["token_id"] == samples.windows[sample_id - 100, position]
            assert shown["position"] == position
    assert clean > 3


def test_a_character_split_over_tokens_is_shown_whole_at_each(gpt2_tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    samples = windows_of(AutoTokenizer.from_pretrained(str(gpt2_tokenizer_folder)), 8)
    assert samples.tokens(100) == ["", "“", "Hi", ",", "", "”", " said", " Zo"]
    for position in (4, 5):
        shown = samples.describe(100, position)
        assert (shown["before"], shown["token"], shown["after"]) == ("“Hi,", "”", " said Zo")
        assert shown["previous_token"] == ","
    assert samples.describe(101, 0)["token"] == "\ufffd"
    assert samples.describe(101, 1)["previous_token"] == "\ufffd"


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
