"""Output that is cut off, or lacks letters, ends nothing."""

import io
import os
import sys

import pytest

from eigen_lightning.run.output import Output, tolerant_output


def test_letters_that_an_encoding_lacks_are_replaced() -> None:
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding="ascii"))
    output.write("1 ± 2")
    output.flush()
    assert raw.getvalue() == b"1 ? 2"


def test_a_pipe_without_a_reader_takes_everything_from_then_on() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    output = Output(stream)
    output.write("lost")
    output.flush()
    output.write("lost too")
    output.flush()
    # What the interpreter does when it ends.
    stream.close()


@pytest.mark.parametrize("error", [BrokenPipeError(32, "broken pipe"), OSError(5, "no terminal"), OSError(28, "full")])
def test_whatever_the_stream_answers(error: OSError) -> None:
    reader, writer = os.pipe()

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise error

        def fileno(self) -> int:
            return writer

    assert Output(Broken()).write("four") == 4
    os.close(writer)
    assert os.read(reader, 1) == b"", "the pipe is left"
    os.close(reader)


def test_closed_streams_are_written_to_in_vain_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with tolerant_output():
        assert not sys.stdout.isatty()
        sys.stdout.write("nowhere")
    assert sys.stdout is None
