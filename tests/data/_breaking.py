"""Sources that break off, and a clock that nobody waits for."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress

from mxd.data import Document
from mxd.data.documents import text_key
from mxd.data.patience import Clock

LOST = ConnectionResetError(104, "Connection reset by peer")


def numbered(count: int) -> list[Document]:
    return [Document(text_key(f"text {i}"), f"text {i}") for i in range(count)]


class Time:
    """A clock that moves when somebody waits."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, []
        self.stuck = threading.Event()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.stuck.clear()

    def receive(self, made: queue.SimpleQueue, seconds: float) -> object:
        """Waits for real until an item comes or the source says that it is stuck."""
        while not (self.stuck.is_set() and made.empty()):
            with suppress(queue.Empty):
                return made.get(timeout=0.001)
        self.now += seconds
        raise queue.Empty

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep, self.receive)


class Source:
    """Documents that break off where they are told to, each time they are opened."""

    def __init__(self, *breaks: int | None, error: Exception = LOST, count: int = 20) -> None:
        self._breaks, self._error, self._count = list(breaks), error, count
        self.opened = self.closed = 0

    def __call__(self) -> Iterator[Document]:
        self.opened += 1
        end = self._breaks.pop(0) if self._breaks else None
        try:
            yield from numbered(self._count if end is None else end)
            if end is not None:
                raise self._error
        finally:
            self.closed += 1
