"""Kill a training again and again, resume it each time, and look at the bytes it ends with."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from multiprocessing.process import BaseProcess
from pathlib import Path

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["mxd.cli.main"])
LONGEST = 300.0
"""Seconds after which a process that neither ends nor is killed counts as hung."""


class HungError(AssertionError):
    """A process did not end in time."""


@dataclass
class Toll:
    """What happened."""

    kills: int = 0
    """SIGKILLs that met a living process."""
    during_writes: int = 0
    """Of these, how many met a checkpoint that was being written."""
    before_first: int = 0
    """Of these, how many came before there was any checkpoint."""
    resumed_from: list[int] = field(default_factory=list)
    """The steps that runs went on from."""
    finished: int = 0
    """Runs that came to their end, each compared byte for byte."""


def _child(arguments: Sequence[str], log: Path) -> None:
    """In a process of its own: the command line, with what it says in a file."""
    os.setsid()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from mxd.cli.main import run

    os._exit(run(list(arguments)))


def start(arguments: Sequence[str], log: Path) -> BaseProcess:
    """Begin `mxd …` in a process of its own; torch and mxd are imported already."""
    process = _processes.Process(target=_child, args=(arguments, log))
    process.start()
    return process


def finish(process: BaseProcess, log: Path, seconds: float = LONGEST) -> None:
    """Wait for a process that is to succeed.

    Raises:
        HungError: it does not end.
        AssertionError: it fails.
    """
    process.join(seconds)
    if process.is_alive():
        process.kill()
        raise HungError(f"no end after {seconds} s:\n{_tail(log)}")
    assert process.exitcode == 0, f"exit code {process.exitcode}:\n{_tail(log)}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def fingerprints(run: Path) -> dict[str, str]:
    """SHA-256 of every student's model.safetensors and statistics."""
    files = sorted(run.glob("layers/*/*/*.safetensors"))
    return {str(path.relative_to(run)): sha256(path.read_bytes()).hexdigest() for path in files}


def writing_now(run: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any(run.glob("checkpoints/.step-*.new"))


def torture(
    command: Callable[[Path], list[str]],
    folder: Path,
    *,
    kills: int,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> Toll:
    """Kill runs of a command at random moments until there were so many kills.

    Kills come in turn at a random moment of the training, within a hundredth of a second after a
    checkpoint is being written, and at a random moment since the process was started. After each,
    the same command is given again; a run that comes to its end must have the bytes of one that
    nobody disturbed.

    Args:
        command: arguments of `mxd` that train into a folder, with --resume.
        folder: where to work.
        kills: how many.
        seed: of the moments.
        say: told of each finished run.
    """
    draw = random.Random(seed)
    log = folder / "log.txt"
    whole = folder / "whole"
    process = start(command(whole), log)
    _wait(process, lambda: begun_at(whole) > 0)
    began = time.monotonic()
    finish(process, log)
    takes = time.monotonic() - began
    expected = fingerprints(whole)
    assert expected
    toll, number = Toll(), 0
    while toll.kills < kills:
        run = folder / f"run-{number}"
        while toll.kills < kills:
            since = begun_at(run)
            process = start(command(run), log)
            if not _kill(process, run, since, draw, takes, toll):
                break
        finish(start(command(run), log), log)  # goes on to the end, or says that it is there
        assert fingerprints(run) == expected, f"run {number} ended with other bytes"
        toll.finished, number = toll.finished + 1, number + 1
        say(f"{toll.kills} kills, {toll.during_writes} during writes, {toll.finished} runs equal")
    text = log.read_text(errors="replace")
    lines = (line for line in text.splitlines() if "resumed from step" in line)
    toll.resumed_from = [int(line.rsplit(maxsplit=1)[1]) for line in lines]
    return toll


def begun_at(run: Path) -> int:
    """When the newest attempt began to train, in nanoseconds; 0 where none did."""
    try:
        return (run / "run.json").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _wait(process: BaseProcess, happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + LONGEST
    while not happened() and process.is_alive():
        if time.monotonic() > limit:
            process.kill()
            raise HungError(f"nothing happened in {LONGEST} s")


def _kill(
    process: BaseProcess, run: Path, since: int, draw: random.Random, takes: float, toll: Toll
) -> bool:
    """Kill a run at a random moment; False when it came to its end before."""
    kind = toll.kills % 3
    span = draw.uniform(0, (0.5 * takes, 0.01, takes)[kind])
    if kind == 0:
        _wait(process, lambda: begun_at(run) > since)
    elif kind == 1:
        _wait(process, lambda: writing_now(run))
    deadline = time.monotonic() + span
    while time.monotonic() < deadline and process.is_alive():
        time.sleep(0.0005)
    if not process.is_alive():
        process.join()
        return False
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return False
    toll.kills += 1
    toll.during_writes += writing_now(run)
    toll.before_first += not any(run.glob("checkpoints/step-*"))
    return True
