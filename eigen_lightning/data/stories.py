"""Stories one by one, from files or from the Hugging Face Hub."""

import codecs
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from eigen_lightning.run.errors import UserError, nearest

SUFFIXES = (".txt", ".jsonl", ".parquet")

END_OF_TEXT = "<|endoftext|>"

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in a file's path that say which split it belongs to; the same as those of `datasets`."""


def local_path(source: str) -> Path | None:
    """The absolute path that ``source`` means; None where it means a data set on the Hub.

    A Hub name is ``name`` or ``owner/name``; whatever exists here, ends like a file, or starts like a path is local.
    """
    path = Path(source).expanduser()
    is_local = (
        path.exists()
        or path.suffix in SUFFIXES
        or source.startswith(("/", ".", "~"))
        or source.count("/") > 1
        or (source.count("/") == 1 and path.parent.is_dir())
        or (source.count("/") == 0 and path.suffix != "")
    )
    return path.absolute() if is_local else None


def absolute(source: str) -> str:
    """``source`` such that it means the same from every working directory."""
    path = local_path(source)
    return source if path is None else str(path)


def check_source(source: str, field: str) -> None:
    """Refuse a local source that can't be read, before any work is spent on the run.

    Args:
        source: a path, or a name on the Hub (which is not looked up here).
        field: the configuration field that holds it.

    Raises:
        UserError: where the file is missing, empty or of an unknown kind, or a folder has no training files.
    """
    path = local_path(source)
    if path is None:
        return
    if path.is_dir():
        folder_files(path, "train")
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


def folder_files(folder: Path, split: str) -> list[Path]:
    """The files of one split in ``folder`` and below, sorted by path.

    They have the split as a word in their path. Where no path names a split, all files are for training. Hidden files
    are left out.

    Raises:
        UserError: where there are none, or files of several kinds.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES and path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in files]
    names = [name for name in names if not re.search(r"(^|/)(\.|__)", name)]

    def of_split(split: str) -> list[str]:
        words = "|".join(map(re.escape, SPLIT_WORDS.get(split, (split,))))
        return [name for name in names if re.search(rf"(?<![a-z])({words})(?![a-z])", name, re.IGNORECASE)]

    chosen = of_split(split) if any(map(of_split, SPLIT_WORDS)) or split != "train" else names
    kinds = sorted({Path(name).suffix for name in chosen})
    if len(kinds) != 1:
        got = " and ".join(kinds) or ", ".join(names[:3]) or "none"
        raise UserError(
            f"expected files of one kind ({', '.join(SUFFIXES)}) for split {split!r} in folder {str(folder)!r}, "
            f"got {got}; name a file, or another folder"
        )
    return [folder / name for name in chosen]


def read_stories(source: str, *, split: str, story_marker: str, text_column: str) -> Iterator[str]:
    """The stories of ``source`` in order, without surrounding blanks, empty ones left out. Read as they are asked for.

    Args:
        source: a ``.txt``, ``.jsonl`` or ``.parquet`` file, a folder of such files, or a name on the Hub.
        split: which split of a folder or data set; files have none.
        story_marker: the line that ends a story in a ``.txt`` file.
        text_column: the column or key that holds the text elsewhere.

    Raises:
        UserError: where the source can't be read, is not what its name says, or has no such column.
    """

    def of_file(path: Path) -> Iterator[str]:
        if path.suffix == ".txt":
            return _text_stories(path, story_marker)
        rows = _json_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path, text_column)
        return (_text(row, text_column, place) for row, place in rows)

    path = local_path(source)
    if path is None:
        stories: Iterator[str] = (_text(row, text_column, source) for row in _hub_rows(source, split))
    else:
        stories = chain.from_iterable(map(of_file, folder_files(path, split) if path.is_dir() else [path]))
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


def _json_rows(path: Path) -> Iterator[tuple[Any, str]]:
    # Not by `datasets`: its reader's errors don't name the line.
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        # ValueError: no JSON, or a number of thousands of digits. RecursionError: thousands of brackets in each other.
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise UserError(
                f"expected one JSON object a line, got {line[:40]!r} ({reason}) in {place}; mend that line"
            ) from error
        yield row, place


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


def _parquet_rows(path: Path, text_column: str) -> Iterator[tuple[Any, str]]:
    # Not by `datasets`: it takes a path for a pattern, and `a[1].parquet` for `a1.parquet`.
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if text_column not in columns:
                yield dict.fromkeys(columns), str(path)
            rows = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(columns=[text_column]))
            yield from ((row, f"{path}, row {number}") for number, row in enumerate(rows, start=1))
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"expected a Parquet file, got: {reason} in {path}; name another file") from error


def _hub_rows(source: str, split: str) -> Iterator[Any]:
    import datasets
    import pyarrow

    try:
        yield from datasets.load_dataset(source, split=split, streaming=True)
    # What `datasets` raises for a name or split that isn't there, or without a network.
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"expected a data set with split {split!r} in {source!r}, got: {reason}; "
            "check the name and the network, or name a local file"
        ) from error


def _text(row: Any, text_column: str, place: str) -> str:
    if not isinstance(row, dict):
        raise UserError(f"expected an object with the key {text_column!r}, got a {type(row).__name__} in {place}")
    if text_column not in row:
        raise UserError(
            f"expected a column {text_column!r}, got columns {', '.join(map(str, row))} in {place}; set text_column"
        )
    text = row[text_column]
    if not isinstance(text, str):
        kind = type(text).__name__
        raise UserError(f"expected text in column {text_column!r}, got {kind} in {place}; set text_column to another")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"expected text in column {text_column!r}, got half of a surrogate pair, {text[error.start]!r}, "
            f"as character {error.start + 1} in {place}; mend or leave out that text"
        ) from error
    return text
