"""Signals that ask a run to stop: between two batches where it trains, at once where it does not."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Schedulers end a job with SIGTERM; some warn it with SIGUSR1; SIGINT is Ctrl-C."""


class Stopped(SystemExit):
    """A run was stopped by a signal; the process exits with 128 + the signal's number, as schedulers expect."""

    def __init__(self, signum: int, code: int | None = None) -> None:
        super().__init__(128 + signum if code is None else code)
        self.signum = signum


class StopSignals:
    """Remembers that a signal came while a run must not be interrupted.

    A second signal stops at once.

    Attributes:
        received: the signal's number, 0 for none.
        patient: whether to remember the signal, rather than stop at once.
    """

    def __init__(self) -> None:
        self.received = 0
        self.patient = False
        self._before: dict[int, Any] = {}
        self._forward: Callable[[int], None] = lambda signum: None

    def install(self, forward: Callable[[int], None]) -> None:
        """Take over the signals.

        Args:
            forward: passes a signal on to processes that this one launched.
        """
        # Python hands signals to its main thread, and lets no other set handlers.
        if threading.current_thread() is not threading.main_thread():
            return
        self.received = 0
        self._forward = forward
        self._before = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}

    def uninstall(self) -> None:
        """Give the signals back."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again, self.received = self.received, signum
        self._forward(signum)
        if again or not self.patient:
            raise Stopped(signum)
