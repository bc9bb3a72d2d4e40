"""Sources that fall silent, and readers that leave; nobody waits here."""

import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pytest
from tests.data._breaking import Source, Time, numbered

from mxd.data import Document, RetryOptions, prefetch
from mxd.data.patience import CLOCK, Clock
from mxd.data.prefetch import NoLongerWantedError
from mxd.data.retrying import retried
from mxd.errors import UserError


class Silent:
    """Gives some documents and blocks, until it is set free."""

    def __init__(self, time: Time, *ends: int) -> None:
        self._time, self._ends = time, list(ends)
        self._free = threading.Event()
        self.opened = 0

    def __call__(self) -> Iterator[Document]:
        self.opened += 1
        if not self._ends:
            yield from numbered(20)
            return
        yield from numbered(self._ends.pop(0))
        self._time.stuck.set()
        self._free.wait()

    def close(self) -> None:
        self._free.set()


def test_silent_source_is_left_alone_and_opened_anew(caplog):
    time = Time()
    source = Silent(time, 7, 3, 9)
    patient = RetryOptions(tries=5, total_seconds=9999)
    with caplog.at_level(logging.WARNING), closing(source):
        found = list(retried(source, "owner/data", patient, stalls=True, clock=time.clock))
    assert found == numbered(20)
    assert source.opened == 4
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.startswith("waiting for owner/data")][:5] == [
        f"waiting for owner/data: it gave nothing for {seconds} s"
        for seconds in (30, 60, 120, 240, 480)
    ]
    assert any("failed (it gave nothing for 600 s); try 2 of 5" in line for line in lines)


def test_source_that_stays_silent_ends_clearly():
    time = Time()
    source = Silent(time, *[4] * 9)
    options = RetryOptions(tries=50, total_seconds=1000, stall_seconds=400)
    told = pytest.raises(UserError, match=r"in 3 tries .* it gave nothing for 400 s")
    with closing(source), told:
        list(retried(source, "s", options, stalls=True, clock=time.clock))


def test_reading_ahead_is_bounded():
    read, gate = [], threading.Semaphore(0)

    def endless():
        for document in numbered(1000):
            read.append(document)
            gate.release()
            yield document

    documents = retried(endless, "s", RetryOptions(), stalls=True)
    next(documents)
    for _ in range(9):  # what was taken, and eight ahead
        gate.acquire()
    assert not gate.acquire(timeout=0.05)
    documents.close()


@pytest.mark.parametrize("stalls", [False, True])
def test_source_is_closed_when_its_reader_stops(stalls):
    source, before = Source(), set(threading.enumerate())
    with closing(retried(source, "s", RetryOptions(), stalls=stalls)) as documents:
        assert list(islice(documents, 3)) == numbered(3)
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert (source.opened, source.closed) == (1, 1)


def test_prefetching_thread_does_not_wait_for_a_source_that_nobody_wants():
    """Else Ctrl-C would last as long as the waits."""
    asleep, ended = threading.Event(), []

    def sleep(seconds: float) -> None:
        asleep.set()
        try:
            CLOCK.sleep(seconds)
        except NoLongerWantedError as error:
            ended.append(error)
            raise

    options = RetryOptions(first_seconds=600, longest_seconds=600)
    clock = Clock(sleep=sleep)
    ahead = prefetch(retried(Source(1), "s", options, clock=clock), 4)
    assert next(ahead) == numbered(1)[0]
    asleep.wait()
    ahead.close()  # joins the thread
    assert len(ended) == 1
