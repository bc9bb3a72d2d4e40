"""Ctrl-C and SIGTERM while layers are trained: stop where the run can be gone on with."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal, and saved.

    Args:
        message: where it is saved and how to go on.
        signal_number: the signal.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Interruption:
    """Whether somebody has asked the run to stop."""

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal that asked for it; None as long as none did."""
        self.ending = False
        """Whether the run ends anyhow: further signals change nothing."""
        self._waits = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal wait for the end of the step; outside of this it interrupts at once."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal; a second one does not wait."""
        if self.ending:
            return
        if not self._waits or self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number
        logger.warning(
            "got %s: saving after this step; a second one stops without saving",
            signal.Signals(number).name,
        )


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
