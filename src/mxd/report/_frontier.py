"""Panels of an evaluation: figures against K, and against active parameters."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from mxd.report._canvas import FAINT, Label, Sheet
from mxd.report._looks import CONTROLS, look
from mxd.report._series import Series
from mxd.report._show import compact
from mxd.report._strokes import fit_to_points
from mxd.report.published import Published

_CEILING = "dense MLP, trained\nthe same way: the ceiling"
INCREASE = "Δ cross-entropy (nats / token)"


def against_k(
    sheet: Sheet, panel: Axes, found: Sequence[Series], published: Published | None = None
) -> None:
    """Draw one figure of one site against K; the dense control has none and goes across.

    Args:
        sheet: the sheet.
        panel: where.
        found: what was measured.
        published: the paper's numbers, where they are for this figure.
    """
    theirs = {} if published is None else published.points
    ks = sorted(
        {point.k for one in found for point in one.line if point.k}
        | {k for points in theirs.values() for k, _ in points}
    )
    _scale_k(panel, ks)
    low, high = panel.get_xlim()
    placed = [one for one in found if one.architecture != "dense_mlp" and one.line[0].x]
    labels = []
    for place, one in enumerate(placed):
        # bars of layers with the same K would hide each other
        beside = place - (len(placed) - 1) / 2 if any(point.bar for point in one.line) else 0.0
        labels.append(_line(panel, one, (high / low) ** (0.014 * beside)))
    labels += [_ceiling(panel, one) for one in found if one.architecture == "dense_mlp"]
    labels += [_theirs(panel, name, points) for name, points in theirs.items()]
    more = [y for points in theirs.values() for _, y in points]
    fit_to_points(panel, [], _values(found) + more)
    _rest_on_zero(panel, found)
    sheet.label(panel, labels)


def against_activity(sheet: Sheet, panel: Axes, found: Sequence[Series]) -> None:
    """Draw one figure of one site against active parameters, each point with its K."""
    panel.set_xscale("log")
    drawn = [one for one in found if one.line[0].x]
    places = [point.x for one in drawn for point in one.line if point.x]
    if places:  # before anything is drawn: matplotlib's own limits fail for a single place
        _scale_parameters(panel, min(places), max(places))
    for one in drawn:
        _line(panel, one, 1.0)
        if len(one.line) > 1:
            _write_ks(panel, one)
    fit_to_points(panel, [], _values(drawn))
    if places:
        sheet.key(panel, [look(one.architecture).name for one in drawn])
    _rest_on_zero(panel, drawn)


def _line(panel: Axes, one: Series, shift: float) -> Label:
    shown = look(one.architecture)
    first = one.architecture == "mxd"
    control = one.architecture in CONTROLS
    xs = [(point.x or 1.0) * shift for point in one.line]
    panel.errorbar(
        xs,
        [point.y for point in one.line],
        yerr=[point.bar for point in one.line] if any(point.bar for point in one.line) else None,
        label=shown.name,
        color=shown.colour,
        linestyle=shown.dashes,
        linewidth=2.2 if first else 1.4,
        elinewidth=1.0,
        capsize=2.5,
        marker=shown.marker,
        markersize=6.5 if first else 5,
        markerfacecolor="white" if control else shown.colour,
        markeredgecolor=shown.colour if control else "white",
        markeredgewidth=1.2 if control else 0.7,
        zorder=5 if first else 3,
    )
    panel.scatter(
        [(point.x or 1.0) * shift for point in one.single],
        [point.y for point in one.single],
        s=12,
        color=shown.colour,
        alpha=0.4,
        linewidths=0,
        zorder=2.5,
    )
    return Label(shown.name, shown.colour, (xs[-1], one.line[-1].y), bold=first)


def _theirs(panel: Axes, architecture: str, points: Sequence[tuple[int, float]]) -> Label:
    """The paper's curve: dashed, with open markers."""
    shown = look(architecture)
    panel.plot(
        *zip(*points, strict=True),
        color=shown.colour,
        linestyle=(0, (3, 2)),
        linewidth=1.0,
        marker=shown.marker,
        markersize=4.5,
        markerfacecolor="white",
        markeredgecolor=shown.colour,
        alpha=0.85,
        zorder=2.8,
    )
    return Label(f"{shown.name}, paper", shown.colour, points[-1])


def _values(found: Sequence[Series]) -> list[float]:
    return [point.y for one in found for point in (*one.line, *one.single)]


def _ceiling(panel: Axes, one: Series) -> Label:
    shown = look(one.architecture)
    y = one.line[0].y
    panel.axhline(y, color=shown.colour, linestyle=shown.dashes, linewidth=1.2, zorder=2)
    return Label(_CEILING, shown.colour, (panel.get_xlim()[1], y))


def _scale_k(panel: Axes, ks: Sequence[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_locator(FixedLocator([float(k) for k in ks]))
    panel.xaxis.set_major_formatter(FixedFormatter([str(k) for k in ks]))
    panel.xaxis.set_minor_locator(NullLocator())
    if ks:
        margin = (max(ks) / min(ks)) ** 0.07 if len(ks) > 1 else 1.5
        panel.set_xlim(min(ks) / margin, max(ks) * margin)


def _scale_parameters(panel: Axes, least: float, most: float) -> None:
    margin = max((most / least) ** 0.08, 1.15)
    panel.set_xlim(least / margin, most * margin)
    marks = [
        mark * 10.0**power
        for power in range(-1, 13)
        for mark in ((1, 3) if most / least > 5 else (1, 1.5, 2, 3, 4, 5, 7))
        if least / margin <= mark * 10.0**power <= most * margin
    ]
    panel.xaxis.set_major_locator(FixedLocator(marks))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: compact(x)))
    panel.xaxis.set_minor_locator(NullLocator())


def _write_ks(panel: Axes, one: Series) -> None:
    """The ends of the line: autoencoders and transcoders take opposite sides of their points."""
    left = one.architecture == "topk_autoencoder"
    for point in one.line if len(one.line) < 4 else (one.line[0], one.line[-1]):
        if point.k and point.x:
            panel.annotate(
                f"K={point.k}",
                (point.x, point.y),
                xytext=(-6, -3) if left else (6, -3),
                textcoords="offset points",
                ha="right" if left else "left",
                size=7.5,
                color=look(one.architecture).colour,
                zorder=6,
            )


def _rest_on_zero(panel: Axes, found: Sequence[Series]) -> None:
    """Draw the base model's line where the panel shows an increase over it."""
    if panel.get_ylabel() != INCREASE:
        return
    panel.axhline(0, color=FAINT, linewidth=0.9, zorder=1)
    low, high = panel.get_ylim()
    room = 0.06 * (high - min(low, 0.0))
    panel.set_ylim(min(low, -room), max(high, room))
    if all(point.y > 2 * room for one in found for point in one.line):
        panel.annotate(
            "base model",
            (0.02, 0),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            size=8,
            color=FAINT,
        )
