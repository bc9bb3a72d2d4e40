"""Wait for a source that may never answer: in another thread, with a bound."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mxd.data.prefetch import LOOK_SECONDS, End, check_wanted, produce

T = TypeVar("T")
AHEAD = 8
"""Items that may be read before they are asked for."""
_FIRST_WORD_SECONDS = 30.0
_logger = logging.getLogger(__name__)


class SourceStalledError(TimeoutError):
    """A source said nothing for too long."""


def _sleep(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check_wanted()
        time.sleep(min(left, LOOK_SECONDS))


def _receive(made: queue.SimpleQueue[Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while True:
        check_wanted()
        left = end - time.monotonic()
        try:
            return made.get(timeout=min(max(left, 0.0), LOOK_SECONDS))
        except queue.Empty:
            if left <= 0:
                raise


@dataclass(frozen=True)
class Clock:
    """What tells the time and waits; both ways of waiting end when nobody wants it any more."""

    now: Callable[[], float] = time.monotonic
    """Seconds since some moment."""
    sleep: Callable[[float], None] = _sleep
    """Let so many seconds pass."""
    receive: Callable[[queue.SimpleQueue[Any], float], Any] = _receive
    """The next item of a queue; `queue.Empty` when none comes for so many seconds."""


CLOCK = Clock()
"""The machine's own."""


def watched(
    open_pass: Callable[[], Iterator[T]],
    name: str,
    stall_seconds: int | float,
    clock: Clock = CLOCK,
) -> Generator[T, None, None]:
    """The items of a source, read by a thread of its own, a few ahead.

    A thread that is stuck in its source cannot be ended: it is left alone, and ends when the
    source comes back or the process ends.

    Args:
        open_pass: opens the source; called in the thread.
        name: what the user would call the source.
        stall_seconds: how long an item may take.
        clock: tells the time and waits.

    Raises:
        SourceStalledError: an item took longer.
    """
    made: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room, stopped = threading.Semaphore(AHEAD), threading.Event()
    threading.Thread(
        target=produce,
        args=(_items(open_pass), made, room, stopped),
        name="mxd-reader",
        daemon=True,
    ).start()
    try:
        while True:
            item = _next(made, name, stall_seconds, clock)
            if isinstance(item, End):
                if item.error is not None:
                    raise item.error
                return
            room.release()
            yield item
    finally:
        stopped.set()
        room.release()


def _items(open_pass: Callable[[], Iterator[T]]) -> Iterator[T]:
    yield from open_pass()


def _next(made: queue.SimpleQueue[Any], name: str, stall_seconds: int | float, clock: Clock) -> Any:
    waited, word = 0.0, _FIRST_WORD_SECONDS
    while True:
        step = min(word, stall_seconds) - waited
        try:
            return clock.receive(made, step)
        except queue.Empty:
            waited += step
        if waited >= stall_seconds:
            raise SourceStalledError(f"it gave nothing for {waited:.0f} s")
        _logger.warning("waiting for %s: it gave nothing for %.0f s", name, waited)
        word *= 2
