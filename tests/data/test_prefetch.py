import signal
import subprocess
import sys
import threading
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd.data import prefetch
from mxd.errors import UserError


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "mxd-prefetch"]


@settings(max_examples=40, deadline=None)
@given(items=st.lists(st.integers()), ahead=st.integers(0, 5))
def test_items_come_in_their_order(items, ahead):
    assert list(prefetch(iter(items), ahead)) == items
    assert not threads()


def test_producer_runs_ahead_and_no_further():
    made, gate = [], threading.Semaphore(0)

    def produce():
        for number in range(10):
            made.append(number)
            gate.release()
            yield number

    items = prefetch(produce(), 3)
    assert next(items) == 0
    for _ in range(4):  # what was taken, and three ahead
        gate.acquire()
    assert not gate.acquire(timeout=0.05)
    assert made == [0, 1, 2, 3]
    assert next(items) == 1
    gate.acquire()
    items.close()
    assert made == [0, 1, 2, 3, 4]


def failing(error):
    def inner_frame():
        raise error

    yield 1
    inner_frame()


@pytest.mark.parametrize("error", [UserError("mend this"), ValueError("x"), KeyboardInterrupt()])
def test_exception_arrives_where_its_item_would_have_with_its_traceback(error):
    items = prefetch(failing(error), 2)
    assert next(items) == 1
    with pytest.raises(type(error)) as caught:
        next(items)
    assert caught.value is error
    assert any(frame.name == "inner_frame" for frame in traceback.extract_tb(error.__traceback__))
    assert not threads()


class _Endless:
    """Produces for ever, and notes when it is closed."""

    def __init__(self):
        self.closed = threading.Event()

    def __iter__(self):
        try:
            while True:
                yield 1
        finally:
            self.closed.set()


def _breaks(items):
    for _ in items:
        break
    items.close()


def _interrupted(items):
    def use():
        for _ in items:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    items.close()


def _collected(items):
    next(items)
    del items


@pytest.mark.parametrize("leave", [_breaks, _interrupted, _collected])
def test_thread_ends_when_the_consumer_leaves(leave):
    source = _Endless()
    items = [prefetch(iter(source), 2)]
    leave(items.pop())
    assert source.closed.is_set()
    assert not threads()


def test_items_that_are_never_asked_for_start_no_thread():
    items = prefetch(iter([1]), 2)
    assert not threads()
    items.close()


@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT)]
)
def test_interpreter_exits_while_the_producer_is_at_work(end, code):
    place = sys.modules["mxd.data.prefetch"].__file__
    program = (
        "import os, runpy, signal, numpy\n"
        # A job in the background of a script ignores Ctrl-C, and so do its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"prefetch = runpy.run_path({place!r})['prefetch']\n"  # without the rest of mxd: quicker
        "def work():\n"
        "    while True:\n"
        "        yield numpy.ones((200, 200)) @ numpy.ones((200, 200))\n"
        "items = prefetch(work(), 3)\n"
        "next(items)\n"
        f"{end}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, timeout=60
    )
    assert done.returncode == code, done.stderr.decode()
    assert b"terminate" not in done.stderr
