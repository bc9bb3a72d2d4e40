"""What is said of a run while it goes on: a row of metrics for each student now and then."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from mxd._plain_state import number, whole
from mxd.training.geometry import GeometryTracker
from mxd.training.metrics_log import MetricsLog
from mxd.training.stopwatch import Stopwatch
from mxd.training.student import Student
from mxd.training.team import Team

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run is; given to the caller now and then."""

    tokens: int
    """Tokens trained on."""
    total: int
    """Token budget."""
    seconds: float
    """Time since the first step."""
    harvest_seconds: float
    """Time that went into fetching activations, the first buffer included."""
    student_seconds: float
    """Time that went into the students' steps."""
    rows: list[dict[str, Any]]
    """The newest metrics of every student."""


OnProgress = Callable[[Progress], None]


class Reporter:
    """Writes metrics and tells the caller.

    Args:
        students: the students of this process.
        roster: site and name of all students of the run.
        team: the processes of the run; all of them report alike, and alone the first one's log
            has a folder.
        log: where metrics go.
        tracker: follows the geometry of the experts.
        clock: where the time went.
        total: token budget.
        on_progress: told after each report.
    """

    def __init__(
        self,
        students: list[Student],
        roster: list[tuple[str, str]],
        team: Team,
        log: MetricsLog,
        tracker: GeometryTracker,
        clock: Stopwatch,
        total: int,
        on_progress: OnProgress | None,
    ) -> None:
        self._students, self._log, self._tracker = students, log, tracker
        self._roster, self._team = roster, team
        self._clock, self._total, self._on_progress = clock, total, on_progress
        self._started = perf_counter()
        self.step = 0
        """The step of the newest report."""
        self.all_diverged = False
        """Whether no student of the run learns any more, as of the newest report."""

    def state(self) -> dict[str, Any]:
        """What it takes to go on reporting, as plain data."""
        return {
            "step": self.step,
            "next_look": self._tracker.next_look,
            "seconds": perf_counter() - self._started,
            "harvest_seconds": self._clock.harvest,
            "student_seconds": self._clock.students,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the time between two processes does not count."""
        self.step, self._tracker.next_look = whole(state, "step"), whole(state, "next_look")
        self._started = perf_counter() - number(state, "seconds")
        self._clock.harvest = number(state, "harvest_seconds")
        self._clock.students = number(state, "student_seconds")

    def __call__(self, step: int, tokens: int, *, last: bool = False) -> None:
        """Report what happened since the last time; the one place that waits for the device."""
        self.step = step
        with self._clock.stepping():  # what is waited for are the students' steps
            windows = [self._window(student) for student in self._students]
        looking = self._tracker.due(step, last=last or tokens >= self._total)
        own = [
            {"site": student.site, "student": student.name}
            | window
            | {"smallest_singular_value": self._tracker.look(student) if looking else None}
            | {"diverged": student.diverged}
            for student, window in zip(self._students, windows, strict=True)
        ]
        found = _by_student(self._team.listed(own))
        self.all_diverged = all(row.pop("diverged") for row in found.values())
        seconds = perf_counter() - self._started
        times = {
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "harvest_seconds": self._clock.harvest,
            "student_seconds": self._clock.students,
        }
        rows = [{"step": step, "tokens": tokens} | found[one] | times for one in self._roster]
        for row in rows:
            self._log.row(row)
        if self._on_progress is not None:
            clock = self._clock
            self._on_progress(
                Progress(tokens, self._total, seconds, clock.harvest, clock.students, rows)
            )

    @staticmethod
    def _window(student: Student) -> dict[str, Any]:
        had_diverged = student.diverged
        window = student.take_window()._asdict()
        if student.diverged and not had_diverged:
            logger.warning(
                "%s diverged at step %d: on that batch its loss or gradient is not finite. It "
                "keeps the weights of before and is not trained further; lower its learning rate "
                "(%g)",
                student.name,
                student.bad_step,
                student.lr,
            )
        return window


def _by_student(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """One row for each student: processes that train the same one differ in what they looked at."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        first = found.setdefault((row["site"], row["student"]), row)
        values = [first["smallest_singular_value"], row["smallest_singular_value"]]
        first["smallest_singular_value"] = _smallest([v for v in values if v is not None])
    return found


def _smallest(values: list[float]) -> float | None:
    if any(math.isnan(value) for value in values):
        return math.nan
    return min(values, default=None)
