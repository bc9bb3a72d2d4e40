"""What is said of a run while it goes on: a row of metrics for each student now and then."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from mxd.training.geometry import GeometryTracker
from mxd.training.metrics_log import MetricsLog
from mxd.training.stopwatch import Stopwatch
from mxd.training.student import Student

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
        students: all students of the run.
        log: where metrics go.
        tracker: follows the geometry of the experts.
        clock: where the time went.
        total: token budget.
        on_progress: told after each report.
    """

    def __init__(
        self,
        students: list[Student],
        log: MetricsLog,
        tracker: GeometryTracker,
        clock: Stopwatch,
        total: int,
        on_progress: OnProgress | None,
    ) -> None:
        self._students, self._log, self._tracker = students, log, tracker
        self._clock, self._total, self._on_progress = clock, total, on_progress
        self._started = perf_counter()
        self.step = 0
        """The step of the newest report."""

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
        self.step, self._tracker.next_look = state["step"], state["next_look"]
        self._started = perf_counter() - state["seconds"]
        self._clock.harvest = state["harvest_seconds"]
        self._clock.students = state["student_seconds"]

    def __call__(self, step: int, tokens: int, *, last: bool = False) -> None:
        """Report what happened since the last time; the one place that waits for the device."""
        self.step = step
        with self._clock.stepping():  # what is waited for are the students' steps
            windows = [self._window(student) for student in self._students]
        looking = self._tracker.due(step, last=last or tokens >= self._total)
        seconds = perf_counter() - self._started
        times = {
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "harvest_seconds": self._clock.harvest,
            "student_seconds": self._clock.students,
        }
        rows: list[dict[str, Any]] = []
        for student, window in zip(self._students, windows, strict=True):
            smallest = self._tracker.look(student) if looking else None
            rows.append(
                {"step": step, "tokens": tokens, "site": student.site, "student": student.name}
                | window
                | {"smallest_singular_value": smallest}
                | times
            )
            self._log.row(rows[-1])
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
