"""The one server that every test forks its processes from: torch and mxd are imported already."""

import multiprocessing as mp
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

PRELOADED = ("tests.training.distributed._preload", "mxd.cli.main")
"""What it imports. In this order: the first checks the shapes of mxd.training.distributed at run
time, which nothing may have imported before; the rest of mxd is as a user has it."""
ROOT = Path(__file__).parents[2]


@lru_cache
def forked() -> ForkServerContext:
    """The context to start processes from, once its server has imported what they need.

    A process has one such server, with what the first who starts it asks for; so nobody else may.

    Raises:
        AssertionError: the server did not import it. Processes would each do so anew, without the
            checks.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with _importable():
        first = context.Process(target=_look)
        first.start()
    first.join()
    assert first.exitcode == 0, f"not all of {PRELOADED} was imported"
    return context


def _look() -> None:
    sys.exit(not set(PRELOADED) <= set(sys.modules))


@contextmanager
def _importable() -> Iterator[None]:
    """The server does not know this process's path, and may be started in any folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
