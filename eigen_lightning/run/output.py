"""stdout and stderr that cost no run: closed, cut off, or without the letters that are written to them."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class Output(io.TextIOBase):
    """A text stream that whoever reads it may leave: from then on nothing is written.

    Args:
        stream: what to write to.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        # A pipe without a reader, a terminal that was closed, a full disk behind a redirection.
        except OSError:
            self._leave()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        # What the stream still holds would fail again when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    @property
    def buffer(self) -> Any:
        return self._stream.buffer


@contextlib.contextmanager
def tolerant_output() -> Iterator[None]:
    """Let neither stdout nor stderr end what is done within."""
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        # Closed, they are None.
        out, err = (stream or opened.enter_context(open(os.devnull, "w", encoding="utf-8")) for stream in before)
        sys.stdout, sys.stderr = Output(out), Output(err)  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before
