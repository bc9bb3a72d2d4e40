"""How one architecture's points and lines are drawn, the same in every picture."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from mxd.report._looks import CONTROLS, look


def stroke(
    panel: Axes,
    architecture: str,
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    bars: Sequence[float | None] = (),
    across: Sequence[float | None] = (),
    control: bool = False,
    line: bool = True,
    label: str | None = None,
) -> None:
    """Draw a line with a marker at each point.

    Args:
        panel: where.
        architecture: whose look.
        xs: horizontal values.
        ys: vertical values.
        bars: half-widths of vertical intervals.
        across: half-widths of horizontal intervals.
        control: draw it as a control: dotted, with open markers.
        line: whether to join the points.
        label: name for a key.
    """
    shown = look(architecture)
    first = architecture == "mxd" and not control
    open_marker = control or architecture in CONTROLS
    panel.errorbar(
        xs,
        ys,
        yerr=_lengths(bars),
        xerr=_lengths(across),
        label=label,
        color=shown.colour,
        linestyle="none" if not line else ":" if control else shown.dashes,
        linewidth=2.0 if first else 1.2,
        elinewidth=0.9,
        capsize=2.0,
        marker=shown.marker,
        markersize=6.0 if first else 5.0,
        markerfacecolor="white" if open_marker else shown.colour,
        markeredgecolor=shown.colour if open_marker else "white",
        markeredgewidth=1.1 if open_marker else 0.7,
        alpha=0.75 if control else 1.0,
        zorder=5 if first else 3,
    )


def fit_to_points(panel: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Let a bar run out of the panel where it is longer than the points are apart.

    Two seeds give an interval of nine standard deviations: to show it whole hides the curves.
    """
    if ys:
        panel.set_ylim(*_limits(ys, panel.get_ylim()))
    if xs:
        panel.set_xlim(*_limits(xs, panel.get_xlim()))


def _limits(values: Sequence[float], now: tuple[float, float]) -> tuple[float, float]:
    spread = max(values) - min(values) or abs(values[0]) or 1.0
    return max(now[0], min(values) - 0.6 * spread), min(now[1], max(values) + 0.6 * spread)


def _lengths(bars: Sequence[float | None]) -> list[float] | None:
    return [bar or 0.0 for bar in bars] if any(bars) else None
