"""What the terminal shows: progress, the table of figures, experts and their contexts."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from mxd.evaluation import SteeredText, UnitExamples
from mxd.report import COLUMNS, table_rows
from mxd.training import Progress

_PLAIN_SECONDS = 15
_LEFT_TO_THE_REPORT = ("parameters", "l0")
"""Columns that a terminal has no room for."""


def console() -> Console:
    """Standard output; wide enough for the table where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


@contextmanager
def training_progress(screen: Console) -> Iterator[Any]:
    """A callback for `fit`: a live bar on a terminal, now and then a plain line elsewhere."""
    if not screen.is_terminal:
        yield _PlainLines(screen)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Bar(*columns, console=screen) as bar:
        task = bar.add_task("training", total=None, speed="", figures="")

        def update(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.total,
                completed=progress.tokens,
                speed=f"{progress.tokens / progress.seconds:,.0f} tokens/s",
                figures=_figures(progress),
            )

        yield update


class Pace:
    """Says when another line of progress is due: every 15 seconds."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for a line; the next one is then due later."""
        now = time.monotonic()
        due = now - self._last >= _PLAIN_SECONDS
        self._last = now if due else self._last
        return due

    def seconds_left(self, done: int, total: int) -> float:
        """Time left, if the rest takes as long for each part as what is done."""
        return (time.monotonic() - self._started) / max(1, done) * (total - done)


class _PlainLines:
    def __init__(self, screen: Console) -> None:
        self._screen, self._pace = screen, Pace()

    def __call__(self, progress: Progress) -> None:
        if not self._pace.is_due() and progress.tokens < progress.total:
            return
        speed = progress.tokens / progress.seconds
        left = max(0.0, (progress.total - progress.tokens) / speed)
        self._screen.print(
            f"{progress.tokens:,} of {progress.total:,} tokens, {speed:,.0f} tokens/s, "
            f"{left:.0f} s left, {_figures(progress)}"
        )


def _figures(progress: Progress) -> str:
    row = progress.rows[0]
    dead = "" if row["dead_fraction"] is None else f", dead {row['dead_fraction']:.0%}"
    more = f" (and {len(progress.rows) - 1} more)" if len(progress.rows) > 1 else ""
    return f"{row['student']}{more}: NMSE {row['nmse']:.4f}{dead}"


def evaluation_progress(screen: Console, total: int) -> Callable[[int], None]:
    """A callback for `evaluate`: now and then a line that says how far it is."""
    pace = Pace()

    def say(tokens: int) -> None:
        if pace.is_due():
            screen.print(f"evaluated on {tokens:,} of at most {total:,} tokens")

    return say


def show_figures(screen: Console, document: dict[str, Any]) -> None:
    """The table of an evaluation: architectures by K, the controls below."""
    table = Table(
        title=Text(
            f"Cross-entropy of the base model {document['base_cross_entropy']:.4f} nats/token on "
            f"{document['tokens']:,} tokens ({_one_line(document['text'])}); with the MLP's output "
            "at zero "
            f"{_number(document['zero_ablation_cross_entropy'])}, at its mean "
            f"{_number(document['mean_ablation_cross_entropy'])}"
        ),
        title_justify="left",
    )
    shown = [n for n, column in enumerate(COLUMNS) if column.key not in _LEFT_TO_THE_REPORT]
    for number in shown:
        left = COLUMNS[number].key == "layer"
        table.add_column(COLUMNS[number].header, justify="left" if left else "right", no_wrap=left)
    was_control = False
    for row in table_rows(document):
        if row.is_control and not was_control:
            table.add_section()
        was_control = row.is_control
        table.add_row(*(Text(_one_line(row.cells[number])) for number in shown))
    screen.print(table)


def show_together(screen: Console, document: dict[str, Any]) -> None:
    """Layers of several sites in place at once, a line for each."""
    for entry in document["together"]:
        screen.print(
            f"{_one_line(entry['name'])} at {len(entry['sites'])} sites at once: Δ cross-entropy "
            f"{entry['delta_cross_entropy']:+.4f} ± "
            f"{1.96 * (entry['delta_cross_entropy_se'] or 0):.4f}",
            markup=False,
        )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def show_units(screen: Console, student: str, units: Sequence[UnitExamples]) -> None:
    """Units with the contexts they fire in, the active token marked."""
    for unit in units:
        head = Text("\n").append(f"Expert {unit.unit}", "bold")
        head.append(f" of {_one_line(student)}: on {unit.frequency:.2%} of tokens, ")
        screen.print(head.append(f"up to {unit.largest:.2f}"))
        for example in unit.examples:
            line = Text(f"  {example.value:6.2f}  …{_one_line(example.before)}")
            line.append(f"⟦{_one_line(example.token)}⟧", style="bold reverse")
            line.append(f"{_one_line(example.after)}…")
            screen.print(line, no_wrap=True, overflow="ellipsis", crop=True)


def show_steered(screen: Console, steered: SteeredText) -> None:
    """A text with and without a unit turned up."""
    screen.print(
        f"\nThe model writes from {steered.prompt!r}, with expert {steered.unit} as it is and with "
        f"{steered.strength:g} added to its coefficient at every token:",
        markup=False,
    )
    for label, text in (("as it is ", steered.plain), ("turned up", steered.steered)):
        screen.print(Text(f"  {label}  {_one_line(text)}"))


def _one_line(text: str) -> str:
    """Printable on one line: line ends shown, control characters (they steer terminals) removed."""
    shown = text.replace("\n", "↵").replace("\t", " ")
    return "".join(c if c.isprintable() else "�" for c in shown)
