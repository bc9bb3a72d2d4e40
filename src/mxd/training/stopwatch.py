"""Where a run's time goes: harvesting activations, or steps of the students."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Stopwatch:
    """Seconds by what they went into.

    Nothing waits for a device here: on an accelerator, work that is under way counts where the
    program next waits for it.
    """

    def __init__(self) -> None:
        self.harvest = 0.0
        self.students = 0.0

    @contextmanager
    def harvesting(self) -> Iterator[None]:
        """Time that fetching activations takes."""
        started = perf_counter()
        try:
            yield
        finally:
            self.harvest += perf_counter() - started

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Time that the students' steps take."""
        started = perf_counter()
        try:
            yield
        finally:
            self.students += perf_counter() - started
