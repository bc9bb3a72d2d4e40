"""One attempt at a command: the process that runs it, or several as under torchrun."""

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.helpers.forked import forked
from torch.distributed import TCPStore

LONGEST = 300.0
"""Seconds after which a process that neither ends nor is killed counts as hung."""
LOOK = 0.0005
"""Seconds between two looks."""


class HungError(AssertionError):
    """A process did not end in time."""


class Attempt:
    """`mxd …` on processes of its own; torch and mxd are imported already.

    Args:
        arguments: of `mxd`.
        log: gets what all of them say.
        ranks: how many.
    """

    def __init__(self, arguments: Sequence[str], log: Path, ranks: int = 1) -> None:
        self._log = log
        # As under torchrun, nobody's death takes the store with it.
        store = TCPStore("127.0.0.1", 0, wait_for_workers=False, is_master=True)
        self._store = store if ranks > 1 else None
        self.began = time.time_ns()
        """When it was started."""
        self.processes: list[BaseProcess] = []
        """By rank."""
        for rank in range(ranks):
            variables = _as_torchrun(rank, ranks, store.port) if ranks > 1 else {}
            process = forked().Process(target=_child, args=(arguments, log, variables))
            process.start()
            self.processes.append(process)

    @property
    def codes(self) -> list[int | None]:
        """Exit codes by rank; None for a process that lives."""
        return [process.exitcode for process in self.processes]

    @property
    def ended(self) -> bool:
        """Whether any process has."""
        return self.codes != [None] * len(self.processes)

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until something happens, or a process ends.

        Raises:
            HungError: neither does.
        """
        limit = time.monotonic() + LONGEST
        while not happened() and not self.ended:
            if time.monotonic() > limit:
                self.kill()
                raise HungError(f"nothing happened in {LONGEST} s:\n{self.tail()}")
            time.sleep(LOOK)

    def pass_time(self, seconds: float) -> None:
        """Do nothing for so long, or until a process ends."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.ended:
            time.sleep(LOOK)

    def kill(self, victims: Sequence[BaseProcess] | None = None) -> bool:
        """SIGKILL all at once, or some; whether any of them lived."""
        victims = self.processes if victims is None else victims
        for process in victims:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
        for process in victims:
            process.join()
        return any(process.exitcode == -signal.SIGKILL for process in victims)

    def end(self, seconds: float = LONGEST) -> list[int | None]:
        """Wait until all have ended; their exit codes by rank.

        Raises:
            HungError: some do not.
        """
        limit = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, limit - time.monotonic()))
        if None in self.codes:
            late = [rank for rank, code in enumerate(self.codes) if code is None]
            self._dump(late)
            self.kill()
            raise HungError(f"no end of ranks {late} in {seconds} s:\n{self.tail()}")
        return self.codes

    def _dump(self, ranks: Sequence[int]) -> None:
        """Let processes that hang write into the log where they are."""
        for rank in ranks:
            pid = self.processes[rank].pid
            if pid is not None:
                os.kill(pid, signal.SIGUSR1)
        time.sleep(1.0)

    def succeed(self, seconds: float = LONGEST) -> None:
        """Wait for all to end, with exit code 0.

        Raises:
            HungError: some do not end.
            AssertionError: some fail.
        """
        codes = self.end(seconds)
        assert set(codes) == {0}, f"exit codes {codes}:\n{self.tail()}"

    def tail(self) -> str:
        """What was said last."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-60:])


def _as_torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip


def _child(arguments: Sequence[str], log: Path, variables: dict[str, str]) -> None:
    """In a process of its own: the command line, with what it says in a file."""
    os.setsid()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.register(signal.SIGUSR1, sys.stderr)
    if variables:
        os.environ |= variables
    from mxd.cli.main import run

    os._exit(run(list(arguments)))
