"""What the terminal shows of a harvest while it goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mxd.cli._screen import Pace
from mxd.data import HarvestProgress, readable


class HarvestScreen(Protocol):
    """A callback for `harvest` that knows whether anything was done."""

    was_called: bool
    """Whether the model had to run."""

    def __call__(self, progress: HarvestProgress) -> None:
        """Show how far it is."""


@contextmanager
def harvest_progress(screen: Console, out: Path) -> Iterator[HarvestScreen]:
    """A live bar on a terminal, now and then a plain line elsewhere."""
    if not screen.is_terminal:
        yield _Lines(screen, out)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=screen) as bar:
        yield _Live(screen, out, bar)


class _Lines:
    """Says how large the cache will be, then plain lines."""

    def __init__(self, screen: Console, out: Path) -> None:
        self._screen, self._out, self._pace = screen, out, Pace()
        self.was_called = False

    def __call__(self, progress: HarvestProgress) -> None:
        if not self.was_called:
            self.was_called = True
            there = f" ({progress.tokens:,} are there already)" if progress.tokens else ""
            self._screen.print(
                f"Harvesting {progress.total:,} tokens{there}; "
                f"{self._out} will take {readable(progress.planned_bytes)}, or less where the text "
                "ends before",
                markup=False,
            )
            return
        self._later(progress)

    def _later(self, progress: HarvestProgress) -> None:
        if not self._pace.is_due() and progress.tokens < progress.total:
            return
        speed = progress.new_tokens / max(progress.seconds, 1e-9)
        left = max(0.0, (progress.total - progress.tokens) / speed)
        self._screen.print(
            f"{progress.tokens:,} of {progress.total:,} tokens, {speed:,.0f} tokens/s, "
            f"{left:.0f} s left, {readable(progress.bytes)} written",
            markup=False,
        )


class _Live(_Lines):
    """The same with a bar."""

    def __init__(self, screen: Console, out: Path, bar: Bar) -> None:
        super().__init__(screen, out)
        self._bar, self._task = bar, bar.add_task("harvesting", total=None, speed="")

    def _later(self, progress: HarvestProgress) -> None:
        speed = progress.new_tokens / max(progress.seconds, 1e-9)
        self._bar.update(
            self._task,
            total=progress.total,
            completed=progress.tokens,
            speed=f"{speed:,.0f} tokens/s, {readable(progress.bytes)}",
        )
