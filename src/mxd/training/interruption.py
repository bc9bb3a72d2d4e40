"""Ctrl-C and SIGTERM while layers are trained: stop where the run can be gone on with."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ECHO_SECONDS = 0.5
"""Within so long, a second signal is taken for the first one, heard twice."""


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal.

    Args:
        message: what became of it; empty where nobody knows yet.
        signal_number: the signal.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Interrupted(Stopped):
    """A run was stopped by a signal between two steps, and saved."""


class Interruption:
    """Whether somebody has asked the run to stop."""

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal that asked for it; None as long as none did."""
        self.ending = False
        """Whether the run ends anyhow: further signals change nothing."""
        self.others = False
        """Whether other processes train the run too: what started them passes SIGTERM on, so that
        each may get it twice."""
        self._awaited: str | None = None
        self._asked_at = 0.0

    @contextmanager
    def waiting(self, for_what: str) -> Iterator[None]:
        """Let a signal wait for something; outside of this it interrupts at once.

        Args:
            for_what: what comes before the run stops, for the log.
        """
        before, self._awaited = self._awaited, for_what
        try:
            yield
        finally:
            self._awaited = before

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal; a second one does not wait, unless it is the first one's echo."""
        if self.ending or self._is_echo(number):
            return
        if self._awaited is None or self.asked is not None:
            raise Stopped("", number)
        self.asked, self._asked_at = number, monotonic()
        logger.warning(
            "got %s: %s; a second one stops at once", signal.Signals(number).name, self._awaited
        )

    def _is_echo(self, number: int) -> bool:
        """Whether it only repeats what was heard: wrappers pass on what a terminal sent to all."""
        if self.asked is None:
            return False
        repeated = self.others and number == signal.SIGTERM
        return repeated or monotonic() - self._asked_at < _ECHO_SECONDS


@contextmanager
def on_signals() -> Iterator[Interruption]:
    """Handle SIGINT and SIGTERM while a run goes on; elsewhere than in the main thread, nothing."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [n for n, handler in before.items() if handler is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, interruption)
    try:
        yield interruption
    finally:
        for number in ours:
            # None: a handler that was not set by Python, which cannot be put back.
            signal.signal(number, before[number] or signal.SIG_DFL)
