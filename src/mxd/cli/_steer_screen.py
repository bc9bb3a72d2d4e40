"""What `mxd steer` shows: samples, and the table of a study."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxd.cli._screen import Pace, _one_line
from mxd.evaluation import SteeredText
from mxd.evaluation.judging import Usage

_COLUMNS = (
    "layer", "strength", "judge", "concept", "fluency", "random: concept", "fluency",
    "distinct-2", "random", "sets", "failed",
)  # fmt: skip


def show_samples(screen: Console, steered: SteeredText, maximum: float) -> None:
    """All samples with and without a unit turned up."""
    screen.print(
        Text(
            f"\nFrom {_one_line(steered.prompt)!r}, with {steered.strength:g} added to the "
            f"coefficient of unit {steered.unit} at every token (largest on held-out text "
            f"{maximum:g}):"
        )
    )
    sets = (("as it is ", steered.plain_samples), ("turned up", steered.steered_samples))
    for label, samples in sets:
        for sample in samples:
            screen.print(Text(f"  {label}  {_one_line(sample)}"))


def study_progress(screen: Console) -> Callable[[str, int, int], None]:
    """A callback for the study: now and then a line that says how far a layer is."""
    paces: dict[str, Pace] = {}

    def say(name: str, written: int, wanted: int) -> None:
        pace = paces.setdefault(name, Pace())
        if pace.is_due():
            done, left = (
                f"wrote {written:,} of {wanted:,} samples",
                pace.seconds_left(written, wanted),
            )
            screen.print(Text(f"{_one_line(name)}: {done}, {left:.0f} s left"))

    return say


def show_study(screen: Console, document: dict[str, Any]) -> None:
    """A line for each layer, strength and judge; the controls beside."""
    title = (
        f"Steering from {_one_line(document['prompt'])!r}: mean ± 1.96 standard errors over units; "
        "random: directions of the same norm that are no unit's"
    )
    table = Table(title=Text(title), title_justify="left")
    for number, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if number < 3 else "right", no_wrap=number == 0)
    _add(table, "base model", "–", document["unsteered"], None)
    for layer in document["layers"]:
        table.add_section()
        _add(table, layer["name"], "0", layer["unsteered"], None)
        for entry in layer["strengths"]:
            times = "x" if entry["unit_of"] == "max" else ""
            strength = f"{entry['strength']:g}{times}"
            _add(table, layer["name"], strength, entry, entry["random_direction"])
    screen.print(table)
    for layer in document["layers"]:
        screen.print(
            Text(
                f"{_one_line(layer['name'])} at {_one_line(layer['site'])}: {len(layer['units'])} "
                f"units, {layer['dead_skipped']} passed over and {len(layer['dead_steered'])} "
                "steered that never fired on the held-out text"
            )
        )


def show_judges(screen: Console, judges: Sequence[tuple[str, Usage]]) -> None:
    """What each judge was asked now, what came from the cache, and what that cost."""
    for name, usage in judges:
        line = f"judge {_one_line(name)}: {usage.verdicts} sets, {usage.failed} without scores"
        if usage.calls:
            asked, answered = usage.spent
            cost = usage.cost(usage.spent)
            line += f", {usage.cached} from the cache, {asked:,} + {answered:,} tokens spent"
            line += "" if cost is None else f", cost {cost:.6g}"
        screen.print(Text(line))


def _add(
    table: Table, name: str, strength: str, swept: dict[str, Any], control: dict[str, Any] | None
) -> None:
    none: dict[str, Any] = {}
    for judge, scores in (swept["judges"] or {"–": none}).items():
        random = none if control is None else control["judges"].get(judge, none)
        cells = [
            _one_line(name),
            strength,
            _one_line(judge),
            _interval(scores, "concept"),
            _interval(scores, "fluency"),
            _interval(random, "concept"),
            _interval(random, "fluency"),
            f"{swept['distinct_2']:.2f}",
            "–" if control is None else f"{control['distinct_2']:.2f}",
            str(len(swept["per_unit"])),
            str(scores.get("failed", 0) + random.get("failed", 0)),
        ]
        table.add_row(*map(Text, cells))


def _interval(scores: dict[str, Any], key: str) -> str:
    value, se = scores.get(key), scores.get(f"{key}_se")
    if value is None:
        return "–"
    return f"{value:.2f}" if se is None else f"{value:.2f} ± {1.96 * se:.2f}"
