"""Stories one by one, from a file or from the Hugging Face Hub."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eigen_lightning.run.errors import UserError, nearest

SUFFIXES = (".txt", ".jsonl", ".parquet")


def is_local(source: str) -> bool:
    """Whether ``source`` means a file or folder here rather than a data set on the Hub.

    A Hub name is ``name`` or ``owner/name``; whatever exists here, ends like a file, or starts like a path is local.
    """
    path = Path(source).expanduser()
    return (
        path.exists()
        or path.suffix in SUFFIXES
        or source.startswith(("/", ".", "~"))
        or source.count("/") > 1
        or (source.count("/") == 1 and path.parent.is_dir())
        or (source.count("/") == 0 and path.suffix != "")
    )


def check_source(source: str, field: str) -> None:
    """Refuse a local source that can't be read, before any work is spent on the run.

    Args:
        source: a path, or a name on the Hub (which is not looked up here).
        field: the configuration field it was given in.

    Raises:
        UserError: where the file is missing, empty or of a kind that is not known.
    """
    path = Path(source).expanduser()
    if not is_local(source) or path.is_dir():
        return
    if not path.exists():
        folder = path.parent
        if not folder.is_dir():
            raise UserError(f"expected {field} to name a file, got {source!r}; there is no folder {str(folder)!r}")
        hint = nearest(path.name, (entry.name for entry in folder.iterdir()))
        raise UserError(f"expected {field} to name a file, got {source!r}, which does not exist{hint or '; check it'}")
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"expected {field} to end in {', '.join(SUFFIXES)}, got {source!r}; convert it, or rename it to what it is"
        )
    if path.stat().st_size == 0:
        raise UserError(f"expected {field} to hold stories, got {source!r}, which is empty; name another file")


def read_stories(source: str, *, split: str, story_marker: str, text_column: str) -> Iterator[str]:
    """The stories of ``source`` in order, without surrounding blanks, empty ones left out. Read as they are asked for.

    Args:
        source: a ``.txt``, ``.jsonl`` or ``.parquet`` file, a folder that holds a data set, or a name on the Hub.
        split: which split of a data set; files have none.
        story_marker: the line that ends a story in a ``.txt`` file.
        text_column: the column or key that holds the text elsewhere.

    Raises:
        UserError: where the source can't be read, is not what its name says, or has no such column.
    """
    path = Path(source).expanduser()
    if path.suffix == ".txt":
        stories = _text_stories(path, story_marker)
    elif path.suffix == ".jsonl":
        stories = (_column(row, text_column, f"{path}, line {line}") for line, row in _json_rows(path))
    else:
        stories = (_column(row, text_column, source) for row in _dataset_rows(source, split))
    return filter(None, map(str.strip, stories))


def _text_stories(path: Path, story_marker: str) -> Iterator[str]:
    lines: list[str] = []
    for line in _lines(path):
        if line.strip() == story_marker:
            yield "\n".join(lines)
            lines = []
        else:
            lines.append(line)
    yield "\n".join(lines)


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"expected one JSON object a line, got {line[:40]!r} ({error.msg}) in {path}, line {number}; "
                "mend that line"
            ) from error


def _lines(path: Path) -> Iterator[str]:
    """Lines without their ends, decoded one by one, so that an error can say where it is."""
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if b"\0" in raw:
                raise UserError(
                    f"expected UTF-8 text, got a binary file: {path} has a NUL byte at byte {offset + raw.index(0)} "
                    f"(line {number}); name a text file, or convert it if it is UTF-16"
                )
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"expected UTF-8 text, got byte 0x{raw[error.start]:02x} at byte {offset + error.start} "
                    f"(line {number}) of {path}; convert it, for instance with `iconv -f latin1 -t utf-8`"
                ) from error
            offset += len(raw)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8.decode())
            yield line.rstrip("\r\n")


def _dataset_rows(source: str, split: str) -> Iterator[Any]:
    import datasets
    import pyarrow

    path = Path(source).expanduser()
    try:
        if path.suffix == ".parquet":
            rows = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        else:
            rows = datasets.load_dataset(str(path) if is_local(source) else source, split=split, streaming=True)
        yield from rows
    # What `datasets` raises for a name, split or file that isn't there or isn't what it says, or without a network.
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        mend = "check the file" if is_local(source) else "check the name and the network, or give a local file"
        raise UserError(f"expected a data set with split {split!r} in {source!r}, got: {reason}; {mend}") from error


def _column(row: Any, text_column: str, where: str) -> str:
    if not isinstance(row, dict):
        raise UserError(f"expected an object with the key {text_column!r}, got a {type(row).__name__} in {where}")
    if text_column not in row:
        raise UserError(
            f"expected a column {text_column!r}, got columns {', '.join(map(str, row))} in {where}; set text_column"
        )
    if not isinstance(row[text_column], str):
        kind = type(row[text_column]).__name__
        raise UserError(f"expected text in column {text_column!r}, got {kind} in {where}; set text_column to another")
    return row[text_column]
