"""Several processes of one run on this machine, with a watchdog, without importing torch anew."""

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from tests.helpers.forked import forked
from torch.distributed import TCPStore

from mxd.training.distributed import World, world

Check = Callable[..., None]
PATIENCE = 60.0
"""Seconds after which the watchdog takes the processes for hanging."""
DONE = "done"


class HangingError(AssertionError):
    """Some process had not ended when its time was up."""


def run_ranks(
    check: Check,
    size: int,
    *arguments: Any,
    patience: float = PATIENCE,
    timeout: float = 30.0,
) -> list[str]:
    """What became of every rank of `check(world, *arguments)`: `done`, a traceback, or its exit.

    All are killed when their time is up, so that no test can hang.

    Args:
        check: a function of a module; it runs in each of the processes.
        size: how many.
        arguments: plain values.
        patience: seconds after which `HangingError` is raised.
        timeout: seconds that collectives wait for other ranks.
    """
    context = forked()
    # As under torchrun, nobody's death takes the store with it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes, pipes = [], []
    for rank in range(size):
        here, there = context.Pipe(duplex=False)
        given = (check, rank, size, store.port, there, arguments, timeout)
        process = context.Process(target=_rank, args=given, daemon=True)
        process.start()
        there.close()
        processes.append(process)
        pipes.append(here)
    try:
        return _said(pipes, processes, time.monotonic() + patience)
    finally:
        for process in processes:
            process.kill()
            process.join()


def assert_done(said: list[str]) -> None:
    """Fail with what a rank said; what ended because of another rank comes last."""
    for rank, words in sorted(enumerate(said), key=lambda of: "LostProcessError" in of[1]):
        assert words == DONE, f"rank {rank}: {words}"


def _said(pipes: list[Connection], processes: list[Any], deadline: float) -> list[str]:
    said = [""] * len(pipes)
    waiting = dict(zip(pipes, range(len(pipes)), strict=True))
    while waiting:
        ready = wait([*waiting], timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            late = sorted(waiting.values())
            raise HangingError(f"ranks {late} did not end; the others said {said}")
        for pipe in ready:
            rank = waiting.pop(pipe)  # type: ignore[arg-type]
            try:
                said[rank] = pipe.recv_bytes().decode()  # type: ignore[union-attr]
            except EOFError:
                processes[rank].join(5)
                said[rank] = f"exit {processes[rank].exitcode}"
    return said


def _rank(
    check: Check,
    rank: int,
    size: int,
    port: int,
    pipe: Connection,
    arguments: tuple[Any, ...],
    timeout: float,
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    try:
        with world("cpu", timeout_seconds=timeout) as here:
            check(here, *arguments)
        pipe.send_bytes(DONE.encode())
    except BaseException:
        pipe.send_bytes(traceback.format_exc().encode())
        sys.exit(1)


__all__ = ["DONE", "HangingError", "World", "assert_done", "run_ranks"]
