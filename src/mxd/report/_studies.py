"""Pictures of probing, steering and editing: what single units mean and do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from mxd.report._canvas import FAINT, INK, Label, Sheet, drawable, plain_ticks
from mxd.report._looks import look
from mxd.report._strokes import fit_to_points, stroke


class Dot(NamedTuple):
    """A value with its interval."""

    y: float
    """The value."""
    half: float | None
    """Half-width of its 95 % interval."""


class Place(NamedTuple):
    """A point of a curve through the plane."""

    x: float
    """Horizontal value."""
    y: float
    """Vertical value."""
    x_half: float | None
    """Half-width of its 95 % interval."""
    y_half: float | None
    """Likewise."""
    name: str
    """What to write beside it."""


class Curve(NamedTuple):
    """A line of one architecture."""

    architecture: str
    """Whose."""
    places: Sequence[Place]
    """Its points in order."""
    control: bool
    """Whether it is there to judge the other by."""


def draw_probe(
    classes: Mapping[str, Mapping[str, Dot]],
    by_k: Mapping[str, Mapping[str, float]],
    references: Mapping[str, float],
    stem: Path,
    facts: Sequence[str],
) -> list[Path]:
    """Draw F1 of the best unit by class, and mean F1 against how many units are used.

    Args:
        classes: by architecture, F1 by class; the mean stands last.
        by_k: by architecture, mean F1 by number of units, as text (`all` last).
        references: mean F1 of baselines, by what to write beside their line.
        stem: path of the pictures without its ending.
        facts: what the title says below.

    Returns:
        The PNG and the SVG.
    """
    names = list(dict.fromkeys(name for of in classes.values() for name in of))
    sheet = Sheet(1, 2, tall=max(1.0, len(names) / 9), left=1.35, inner=0.0)
    sheet.title("Sparse probing", facts)
    ((left, _),) = sheet.panels
    step = min(0.16, 0.7 / max(1, len(classes)))
    for row, (architecture, of) in enumerate(classes.items()):
        shift = (row - (len(classes) - 1) / 2) * step
        places = [names.index(name) + shift for name in of]
        dots = list(of.values())
        bars = [dot.half for dot in dots]
        stroke(left, architecture, [dot.y for dot in dots], places, across=bars, line=False)
    left.set_ylim(len(names) - 0.4, -0.6)
    left.yaxis.set_major_locator(FixedLocator([float(place) for place in range(len(names))]))
    left.yaxis.set_major_formatter(FixedFormatter([drawable(name, 18) for name in names]))
    plain_ticks(left)
    left.grid(axis="x", color="#e6e6e6", linewidth=0.7)
    if len(names) > 1:
        left.axhline(len(names) - 1.5, color=FAINT, linewidth=0.8)
    sheet.axes(left, "F1 of the best single unit", "")
    _by_number_of_units(sheet, by_k, references)
    return sheet.save(stem)


def _by_number_of_units(
    sheet: Sheet, by_k: Mapping[str, Mapping[str, float]], references: Mapping[str, float]
) -> None:
    ((_, right),) = sheet.panels
    ks = list(dict.fromkeys(k for of in by_k.values() for k in of))
    labels = []
    for architecture, of in by_k.items():
        places = [float(ks.index(k)) for k in of]
        values = list(of.values())
        stroke(right, architecture, places, values)
        if values:
            shown = look(architecture)
            first = architecture == "mxd"
            labels.append(Label(shown.name, shown.colour, (places[-1], values[-1]), bold=first))
    for number, (name, value) in enumerate(references.items()):
        dashes = ("--", ":", "-.")[number % 3]
        right.axhline(value, color=INK, linestyle=dashes, linewidth=1.0, zorder=2)
        labels.append(Label(name, INK, (right.get_xlim()[1], value)))
    right.xaxis.set_major_locator(FixedLocator([float(place) for place in range(len(ks))]))
    right.xaxis.set_major_formatter(FixedFormatter([drawable(k, 6) for k in ks]))
    right.xaxis.set_minor_locator(NullLocator())
    plain_ticks(right)
    right.set_xlim(-0.4, max(len(ks), 1) - 0.6)
    sheet.axes(right, "units in one regression", "mean F1 over classes")
    sheet.label(right, labels)


def draw_plane(
    panels: Mapping[str, Sequence[Curve]],
    stem: Path,
    facts: Sequence[str],
    *,
    title: str,
    axes: tuple[str, str],
    marked: Mapping[str, tuple[float, float]] | None = None,
    marked_as: str = "",
    diagonal: str = "",
) -> list[Path]:
    """Draw curves through a plane, a panel for each judge or ranking.

    Args:
        panels: curves by the panel's name.
        stem: path of the pictures without its ending.
        facts: what the title says below.
        title: title of the picture.
        axes: names of both axes.
        marked: by panel, a point to mark with a cross.
        marked_as: its name.
        diagonal: name of the line x = y; none is drawn without.

    Returns:
        The PNG and the SVG.
    """
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    sheet = Sheet(rows, columns, wide=1.0 if columns == 2 else 1.35, tall=1.15)
    sheet.title(title, facts)
    flat = [panel for row in sheet.panels for panel in row]
    for panel in flat[len(panels) :]:
        panel.set_visible(False)
    for panel, (name, curves) in zip(flat, panels.items(), strict=False):
        keys = [look(curve.architecture).name for curve in curves if not curve.control]
        for curve in curves:
            _draw_curve(panel, curve, before=bool(diagonal))
        if any(curve.control for curve in curves):
            keys.append("random instead")
            panel.plot([], [], "o:", color=INK, mfc="white", lw=1.2, ms=5, label=keys[-1])
        cross = (marked or {}).get(name)
        if cross is not None:
            panel.plot(*cross, "x", color=INK, markersize=8, mew=1.8, label=marked_as, zorder=6)
            keys.append(marked_as)
        panel.margins(0.09)
        crosses = [] if cross is None else [cross]
        places = [(place.x, place.y) for curve in curves for place in curve.places] + crosses
        fit_to_points(panel, [x for x, _ in places], [y for _, y in places])
        if diagonal:
            _diagonal(panel, diagonal)
        panel.grid(axis="x", color="#e6e6e6", linewidth=0.7)
        sheet.axes(panel, *axes)
        sheet.key(panel, list(dict.fromkeys(keys)))
        if len(panels) > 1:
            sheet.name_panel(panel, name)
    return sheet.save(stem)


def _draw_curve(panel: Axes, curve: Curve, *, before: bool) -> None:
    stroke(
        panel,
        curve.architecture,
        [place.x for place in curve.places],
        [place.y for place in curve.places],
        across=[place.x_half for place in curve.places],
        bars=[place.y_half for place in curve.places],
        control=curve.control,
        label=None if curve.control else look(curve.architecture).name,
    )
    _write_names(panel, curve, before=before)


def _write_names(panel: Axes, curve: Curve, *, before: bool) -> None:
    """Names beside the points of the first line; the others follow the same order."""
    if curve.control or curve.architecture != "mxd":
        return
    for place in curve.places:
        panel.annotate(
            drawable(place.name, 10),
            (place.x, place.y),
            xytext=(-5, 5) if before else (5, 4),
            ha="right" if before else "left",
            textcoords="offset points",
            size=7.5,
            color=look(curve.architecture).colour,
            parse_math=False,
            zorder=6,
        )


def _diagonal(panel: Axes, name: str) -> None:
    """The line on which both axes say the same, within what the points need."""
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    start, end = max(left, low), min(right, high)
    if start < end:
        panel.plot([start, end], [start, end], color=FAINT, linewidth=0.9, zorder=1)
        panel.annotate(
            name, (end, end), xytext=(-3, -9), textcoords="offset points", size=7.5,
            color=FAINT, ha="right", va="top",
        )  # fmt: skip
    panel.set_xlim(left, right)
    panel.set_ylim(low, high)
