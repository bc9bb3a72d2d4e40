"""Kill a training again and again, resume it each time, and look at what it ends with."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.torture.attempt import Attempt
from tests.torture.commands import SILENCE
from tests.torture.outcome import (
    begun_at,
    difference,
    fingerprints,
    has_checkpoint,
    is_complete,
    writing_since,
)

Command = Callable[[Path, int], list[str]]
"""The arguments of `mxd` from the run's folder and the number of processes."""


@dataclass(frozen=True)
class Way:
    """On how many processes a run is, and who is killed."""

    ranks: tuple[int, ...] = (1,)
    """Processes of the first attempt at a run, of the second, …; of the last in all later ones."""
    one_alone: bool = False
    """Whether one process is killed, drawn at random, and the others have to end by themselves."""
    tolerance: float | None = None
    """Largest difference in any weight that is allowed; None asks for the same bytes."""


@dataclass
class Toll:
    """What happened."""

    kills: int = 0
    """Attempts that were killed: SIGKILL met a living process."""
    during_writes: int = 0
    """Of these, how many met a checkpoint that was being written."""
    before_first: int = 0
    """Of these, how many came before there was any checkpoint."""
    resumed_from: list[int] = field(default_factory=list)
    """The steps that runs went on from."""
    finished: int = 0
    """Runs that came to their end, each compared."""
    longest_wait: float = 0.0
    """Seconds from the kill of one process until the others had ended, at most."""
    difference: float = 0.0
    """Largest in any weight or mean of a finished run."""


def torture(
    command: Command,
    folder: Path,
    *,
    kills: int,
    seed: int,
    way: Way = Way(),
    say: Callable[[str], None] = lambda _: None,
) -> Toll:
    """Kill runs of a command at random moments until there were so many kills.

    Kills come in turn at a random moment of the training, within a hundredth of a second after a
    checkpoint is being written, and at a random moment since the processes were started. After
    each, the same command is given again; a run that comes to its end must be that of one which
    nobody disturbed.

    Args:
        command: trains into a folder, with --resume.
        folder: where to work.
        kills: how many.
        seed: of the moments.
        way: how many processes, and which of them are killed.
        say: told of each finished run.

    Raises:
        HungError: something did not end.
        AssertionError: a run failed, or ended as another one.
    """
    draw, log, toll = random.Random(seed), folder / "log.txt", Toll()
    whole = folder / "whole"
    first = Attempt(command(whole, way.ranks[0]), log, way.ranks[0])
    first.until(lambda: begun_at(whole) > 0)
    began = time.monotonic()
    first.succeed()
    takes = time.monotonic() - began
    for number in count():
        run = folder / f"run-{number}"
        for ranks in (*way.ranks, *(way.ranks[-1] for _ in range(kills))):
            since = begun_at(run)
            attempt = Attempt(command(run, ranks), log, ranks)
            if not _kill(attempt, run, since, draw, takes, way, toll) or toll.kills == kills:
                break
        ranks = way.ranks[-1]
        Attempt(command(run, ranks), log, ranks).succeed()  # to the end, or it is there already
        _compare(whole, run, way, toll)
        say(f"{toll.kills} kills, {toll.during_writes} during writes, {toll.finished} runs equal")
        if toll.kills == kills:
            break
    lines = log.read_text(errors="replace").splitlines()
    toll.resumed_from = [int(line.split()[-1]) for line in lines if "resumed from step" in line]
    return toll


def _kill(
    attempt: Attempt,
    run: Path,
    since: int,
    draw: random.Random,
    takes: float,
    way: Way,
    toll: Toll,
) -> bool:
    """Kill a run at a random moment; False when it came to its end before."""
    kind = toll.kills % 3
    if kind < 2:
        attempt.until(lambda: begun_at(run) > since)
    attempt.pass_time(draw.uniform(0, (0.5 * takes, 0.3 * takes, takes)[kind]))
    if kind == 1:
        if toll.kills % 2:  # every other time it is not the run's first
            attempt.until(lambda: has_checkpoint(run))
        attempt.until(lambda: writing_since(run, attempt.began))
        attempt.pass_time(draw.uniform(0, 0.01))
    victims = [draw.choice(attempt.processes)] if way.one_alone else None
    if attempt.ended or not attempt.kill(victims):
        attempt.succeed()
        return False
    toll.kills += 1
    toll.during_writes += writing_since(run, attempt.began)
    toll.before_first += not has_checkpoint(run)
    if way.one_alone:
        _see_the_others_end(attempt, run, toll)
    return True


def _see_the_others_end(attempt: Attempt, run: Path, toll: Toll) -> None:
    """Nobody tells them that one is gone: they have to notice, and not to call it a success."""
    began = time.monotonic()
    codes = attempt.end(3 * SILENCE)
    toll.longest_wait = max(toll.longest_wait, time.monotonic() - began)
    # One that was killed after all was done may be missed by nobody.
    good = {-signal.SIGKILL, 2, 0} if is_complete(run) else {-signal.SIGKILL, 2}
    assert set(codes) <= good, f"exit codes {codes} after one was killed:\n{attempt.tail()}"


def _compare(whole: Path, run: Path, way: Way, toll: Toll) -> None:
    if way.tolerance is None:
        expected = fingerprints(whole)
        assert expected
        assert fingerprints(run) == expected, f"{run.name} ended with other bytes"
    else:
        toll.difference = max(toll.difference, difference(run, whole))
        assert toll.difference <= way.tolerance, f"{run.name} differs by {toll.difference}"
    toll.finished += 1
