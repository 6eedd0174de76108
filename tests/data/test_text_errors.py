"""Text that can't be used: one clear line each, that says where and how to mend it."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from byte_tokenizer import ByteTokenizer

from eigen_lightning.data import TinyStories
from eigen_lightning.run.errors import UserError

STORIES = "".join(f"A story of the number {number}.\n<|endoftext|>\n" for number in range(50))


def file(folder: Path, name: str, content: bytes | str = STORIES) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parquet(folder: Path, name: str, column: str = "text", values: list = ("a story",)) -> str:
    pyarrow.parquet.write_table(pyarrow.table({column: list(values)}), folder / name)
    return str(folder / name)


def bad_line(folder: Path, line: str) -> str:
    return file(folder, "a.jsonl", json.dumps({"text": "a story"}) + "\n\n" + line + "\n")


AT_ONCE: dict[str, tuple[Callable[[Path], dict], str]] = {
    "missing": (
        lambda at: {"source": file(at, "stories.txt").replace("stories", "storys")},
        r"expected source to name a file, got '.*storys.txt', which does not exist; did you mean stories.txt\?",
    ),
    "missing folder": (lambda at: {"source": str(at / "no" / "a.txt")}, r"there is no folder '.*/no'"),
    "empty": (lambda at: {"source": file(at, "a.txt", "")}, "to hold stories, got '.*a.txt', which is empty"),
    "kind": (lambda at: {"source": file(at, "a.csv")}, r"to end in .txt, .jsonl, .parquet, got '.*a.csv'; convert it"),
    "held-out missing": (
        lambda at: {"source": file(at, "a.txt"), "heldout": str(at / "b.txt")},
        "expected heldout to name a file, got '.*b.txt', which does not exist; did you mean a.txt",
    ),
    "empty folder": (
        lambda at: {"source": str(at)},
        r"expected files of one kind \(.txt, .jsonl, .parquet\) for split 'train' in folder .*, got none; name a file",
    ),
    "folder of several kinds": (
        lambda at: {"source": file(at, "train.txt") and str(Path(parquet(at, "train-1.parquet")).parent)},
        r"expected files of one kind \(.*\) for split 'train' in folder .*, got .parquet and .txt; name a file, or",
    ),
    "context": (
        lambda at: {"source": file(at, "a.txt"), "context_length": 1},
        "context_length of at least 2 tokens, got 1",
    ),
    "count": (lambda at: {"source": file(at, "a.txt"), "n_sequences": 0}, "n_sequences of at least 1, got 0"),
    "held-out count": (
        lambda at: {"source": file(at, "a.txt"), "n_heldout_sequences": -1},
        "n_heldout_sequences of at least 1, got -1",
    ),
    "per story": (lambda at: {"source": file(at, "a.txt"), "windows_per_story": 0}, "windows_per_story of at least 1"),
    "fraction 0": (lambda at: {"source": file(at, "a.txt"), "heldout_fraction": 0.0}, r"fraction in \(0, 1\), got 0.0"),
    "fraction 1": (lambda at: {"source": file(at, "a.txt"), "heldout_fraction": 1.0}, r"fraction in \(0, 1\), got 1.0"),
    "marker": (lambda at: {"source": file(at, "a.txt"), "story_marker": " "}, "story_marker with visible characters"),
}

ON_SETUP: dict[str, tuple[Callable[[Path], dict], str]] = {
    "not UTF-8": (
        lambda at: {"source": file(at, "a.txt", STORIES.encode() + "caf\xe9 at night\n".encode("latin1"))},
        f"expected UTF-8 text, got byte 0xe9 at byte {len(STORIES) + 3} \\(line 101\\) of .*a.txt; convert it",
    ),
    "binary": (
        lambda at: {"source": file(at, "a.txt", b"line\nab\0c\n")},
        r"expected UTF-8 text, got a binary file: .*a.txt has a NUL byte at byte 7 \(line 2\)",
    ),
    "no marker": (
        lambda at: {"source": file(at, "a.txt", STORIES.replace("<|endoftext|>", "***")), "story_marker": "=="},
        r"at least one (training|held-out) story in '.*a.txt', got none; .* line '==' .*heldout_fraction \(0.1\)",
    ),
    "blank": (
        lambda at: {"source": file(at, "a.txt", "\n \n")},
        "expected at least one training story in '.*a.txt', got none",
    ),
    "short": (
        lambda at: {"source": file(at, "a.txt"), "context_length": 26},
        "expected training stories of at least 26 tokens in '.*a.txt', got 4[0-9], the longest of 25; use a smaller",
    ),
    "held-out side empty": (
        lambda at: {"source": file(at, "a.txt"), "heldout_fraction": 1e-9},
        "expected at least one held-out story in '.*a.txt', got none; .*change heldout_fraction",
    ),
    "no JSON": (
        lambda at: {"source": bad_line(at, '{"text": ')},
        r"expected one JSON object a line, got '\{\"text\": ' \(Expecting value\) in .*a.jsonl, line 3; mend",
    ),
    "no object": (lambda at: {"source": bad_line(at, '"text"')}, "object with the key 'text', got a str in .*, line 3"),
    "no key": (
        lambda at: {"source": bad_line(at, '{"story": "", "id": 3}')},
        "expected a column 'text', got columns story, id in .*a.jsonl, line 3; set text_column",
    ),
    "no text": (lambda at: {"source": bad_line(at, '{"text": 3}')}, "text in column 'text', got int in .*, line 3"),
    "no column": (
        lambda at: {"source": parquet(at, "a.parquet", "story")},
        "expected a column 'text', got columns story in .*a.parquet; set text_column",
    ),
    "broken parquet": (
        lambda at: {"source": file(at, "a.parquet", "hello")},
        "expected a Parquet file, got: Parquet .* in .*a.parquet; name another file",
    ),
    "no text in parquet": (
        lambda at: {"source": parquet(at, "a.parquet", values=["a story", None])},
        "expected text in column 'text', got NoneType in .*a.parquet, row 2; set text_column to another",
    ),
    "half a surrogate pair": (
        lambda at: {"source": bad_line(at, '{"text": "a \\ud83d b"}')},
        r"got half of a surrogate pair, '.ud83d', as character 3 in .*a.jsonl, line 3; mend or leave out that text",
    ),
    "nested deeply": (
        lambda at: {"source": bad_line(at, '{"text": "a", "more": ' + "[" * 100_000 + "]" * 100_000 + "}")},
        r"expected one JSON object a line, got .* \(maximum recursion depth .*\) in .*a.jsonl, line 3; mend that line",
    ),
    "a long number": (
        lambda at: {"source": bad_line(at, '{"text": "a", "id": ' + "7" * 5000 + "}")},
        r"expected one JSON object a line, got .* \(Exceeds the limit .*\) in .*a.jsonl, line 3; mend that line",
    ),
    "no split": (
        lambda at: {"source": str(Path(parquet(at, "train.parquet")).parent), "heldout": "validation"},
        r"expected files of one kind \(.*\) for split 'validation' in folder .*, got train.parquet; name a file",
    ),
    "no such name or no network": (
        lambda at: {"source": "nobody/nothing"},
        "in 'nobody/nothing', got: .*; check the name and the network, or name a local file",
    ),
    "tokenizer folder": (
        lambda at: {"source": file(at, "a.txt"), "tokenizer": str(at / "gone")},
        "expected a tokenizer's folder, got '.*gone', which does not exist; check the path",
    ),
    "no tokenizer in it": (
        lambda at: {"source": file(at, "a.txt"), "tokenizer": str(at)},
        "expected a tokenizer in .*, got: .*; name a folder that has tokenizer.json",
    ),
}


@pytest.mark.parametrize("case", AT_ONCE)
def test_refused_at_once(case: str, tmp_path: Path) -> None:
    make, message = AT_ONCE[case]
    with pytest.raises(UserError, match=message) as caught:
        TinyStories(**make(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ON_SETUP)
def test_refused_when_read(case: str, tmp_path: Path) -> None:
    make, message = ON_SETUP[case]
    stream = TinyStories(**{"context_length": 8, "seed": 0, **make(tmp_path)})
    stream.trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(target=SimpleNamespace(tokenizer=ByteTokenizer()))
    )
    with pytest.raises(UserError, match=message) as caught:
        stream.setup()
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_tell_where_its_tokens_are_is_said(tmp_path: Path) -> None:
    slow = ByteTokenizer()
    slow.is_fast = False
    stream = TinyStories(file(tmp_path, "a.txt"))
    stream.trainer = SimpleNamespace(lightning_module=SimpleNamespace(target=SimpleNamespace(tokenizer=slow)))
    with pytest.raises(UserError, match=r"expected a fast tokenizer, .* got ByteTokenizer; set data.tokenizer to"):
        stream.setup()


@pytest.mark.parametrize("trainer", [None, SimpleNamespace(lightning_module=SimpleNamespace(target=object()))])
def test_a_target_without_tokenizer_is_said(tmp_path: Path, trainer: object) -> None:
    stream = TinyStories(file(tmp_path, "a.txt"))
    stream.trainer = trainer
    with pytest.raises(UserError, match=r"expected a target with a tokenizer, got one without; set data.tokenizer"):
        stream.setup()
