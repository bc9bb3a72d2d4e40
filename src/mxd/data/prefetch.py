"""Let a producer run ahead of its consumer, in a thread of its own."""

import atexit
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


_UNWANTED: ContextVar[Callable[[], bool]] = ContextVar("unwanted", default=lambda: False)
LOOK_SECONDS = 0.5
"""How often whoever waits looks whether he still should."""


class End(NamedTuple):
    """After the last item: what the producer failed with, if it did."""

    error: BaseException | None


class NoLongerWantedError(Exception):
    """Ends a wait for something that nobody wants any more."""


def check_wanted() -> None:
    """For whoever waits for something: look now and then whether it is still wanted.

    Raises:
        NoLongerWantedError: the consumer of this thread's items has gone, or `until` says so.
    """
    if _UNWANTED.get()():
        raise NoLongerWantedError


@contextmanager
def until(unwanted: Callable[[], bool]) -> Iterator[None]:
    """Within, this thread's waits for a source end with `NoLongerWantedError` once it holds."""
    token = _UNWANTED.set(unwanted)
    try:
        yield
    finally:
        _UNWANTED.reset(token)


def prefetch(source: Iterator[T], ahead: int) -> Generator[T, None, None]:
    """The same items in the same order, produced ahead of their use by a background thread.

    An exception of the producer reaches the consumer where the item would have come, with its own
    type and traceback. However the consumer ends (exhaustion, `break`, an exception, Ctrl-C,
    `close()`, garbage collection, the end of the interpreter), the thread finishes the item that
    it is at and ends. The producer runs from the first item that is asked for.

    Args:
        source: what produces; used in the thread alone, and closed there if it is a generator.
        ahead: items that may be finished or in the making before they are asked for; 0 produces
            each item when it is asked for, without a thread.
    """
    if ahead == 0:
        yield from source
        return
    worker = _Worker(source, ahead)
    try:
        yield from worker.items()
    finally:
        worker.stop()


class _Worker(Generic[T]):
    def __init__(self, source: Iterator[T], ahead: int) -> None:
        self._made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(ahead)
        self._stopped = threading.Event()
        # A daemon, so that an exit does not wait for somebody who never comes back for the rest;
        # torch must not be running in it then, so the exit stops it properly first.
        self._thread = threading.Thread(
            target=produce,
            args=(source, self._made, self._room, self._stopped),
            name="mxd-prefetch",
            daemon=True,
        )
        atexit.register(self.stop)
        self._thread.start()

    def items(self) -> Iterator[T]:
        while True:
            item = self._next()
            if isinstance(item, End):
                if item.error is not None:
                    raise item.error
                return
            self._room.release()
            yield item
            del item  # its memory is the consumer's to free

    def _next(self) -> Any:
        item = None
        while item is None:
            check_wanted()
            with suppress(queue.Empty):
                item = self._made.get(timeout=LOOK_SECONDS)
        return item

    def stop(self) -> None:
        self._stopped.set()
        self._room.release()
        if self._thread is not threading.current_thread():
            self._thread.join()
        atexit.unregister(self.stop)


def produce(
    source: Iterator[T],
    made: "queue.SimpleQueue[Any]",
    room: threading.Semaphore,
    stopped: threading.Event,
) -> None:
    """Runs in the thread; knows nothing of the consumer, so that this one can be collected.

    Args:
        source: gives the items; closed at the end.
        made: takes the items, and an `End` after the last.
        room: acquired before each item.
        stopped: set by a consumer that has gone.
    """
    _UNWANTED.set(stopped.is_set)
    end = End(None)
    try:
        while True:
            room.acquire()
            if stopped.is_set():
                break
            item = next(source, end)
            if item is end:
                break
            made.put(item)
            del item
    except BaseException as error:  # whatever it is, it is the consumer's to see
        end = End(error)
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            with suppress(Exception):
                close()
        made.put(end)
