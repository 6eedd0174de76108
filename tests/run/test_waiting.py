"""A bar appears where somebody watches and work takes long; nowhere else."""

import io
import logging
import sys

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from eigen_lightning.run import waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, patience: float) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(waiting, "PATIENCE", patience)
    with waiting.Waiting("Climbing", 4) as bar:
        bar.mininterval = 0
        for done in range(1, 5):
            bar.reach(done)
    return stream.getvalue()


def test_long_work_on_a_terminal_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), 1e-9)
    assert "Climbing" in text
    assert "3/4" in text


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Climbing" not in shown(monkeypatch, Terminal(), 2.0)


def test_a_file_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO(), 1e-9) == ""


def test_other_ranks_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert shown(monkeypatch, Terminal(), 1e-9) == ""


def test_silence_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("eigen_lightning").setLevel(logging.WARNING)
    assert shown(monkeypatch, Terminal(), 1e-9) == ""


def test_a_closed_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with waiting.Waiting("Climbing", None) as bar:
        bar.reach(3)
