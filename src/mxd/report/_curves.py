"""Training curves: whether the students were still learning when the text ended."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from mxd.report._canvas import Label, Sheet
from mxd.report._looks import CONTROLS, look, rank
from mxd.report._names import Student, parse_name
from mxd.report._show import compact, number

Curve = list[tuple[float, float]]
"""(tokens, value) from the start of training to its end."""
Curves = dict[str, dict[str, Curve]]
"""Curves of every student, by site and name."""


def show_curves(sheet: Sheet, panel: Axes, students: dict[str, Curve], *, least: bool) -> None:
    """Draw the students of one site, one line for all seeds of a kind.

    Args:
        sheet: the sheet.
        panel: where.
        students: curves by the student's name.
        least: whether a line is the least over seeds, instead of their mean.
    """
    panel.set_yscale("log")
    kinds: dict[Student, list[Curve]] = {}
    for name, curve in students.items():
        kinds.setdefault(parse_name(name)._replace(seed=None), []).append(curve)
    labels = [
        _draw(panel, kind, curves, least) for kind, curves in sorted(kinds.items(), key=_place)
    ]
    _ticks(panel, [y for curve in students.values() for _, y in curve])
    sheet.label(panel, labels)


def curves_by_site(rows: Sequence[dict[str, Any]], key: str = "nmse") -> Curves:
    """Curves of every student at every site; rows without the figure are left out."""
    found: Curves = {}
    for row in rows:
        tokens, value = number(row.get("tokens")), number(row.get(key))
        if tokens is not None and value is not None and value > 0:
            students = found.setdefault(str(row.get("site")), {})
            students.setdefault(str(row.get("student")), []).append((tokens, value))
    return found


def singular_values_by_site(rows: Sequence[dict[str, Any]]) -> Curves:
    """Curves of the smallest singular value of each MxD's sampled experts."""
    return curves_by_site(rows, "smallest_singular_value")


def _place(item: tuple[Student, list[Curve]]) -> tuple[int, int, str, str]:
    kind = item[0]
    return rank(kind.architecture), kind.k or 0, kind.lr or "", kind.variant or ""


def _over_seeds(curves: list[Curve], least: bool) -> Curve:
    """One curve for several, at the tokens that all of them have."""
    columns = [dict(curve) for curve in curves]
    shared = [tokens for tokens in columns[0] if all(tokens in column for column in columns)]
    take = min if least else fmean
    return [(tokens, float(take([column[tokens] for column in columns]))) for tokens in shared]


def _draw(panel: Axes, kind: Student, curves: list[Curve], least: bool) -> Label:
    shown = look(kind.architecture)
    first = kind.architecture == "mxd"
    whole = _over_seeds(curves, least) or curves[0]
    for curve in curves if len(curves) > 1 else ():
        panel.plot(*zip(*curve, strict=True), color=shown.colour, linewidth=0.5, alpha=0.3)
    panel.plot(
        *zip(*whole, strict=True),
        color=shown.colour,
        linestyle="--" if kind.variant else shown.dashes,
        linewidth=1.8 if first else 1.2,
        marker=shown.marker if len(whole) == 1 else "",
        alpha=0.8 if kind.architecture in CONTROLS else 1.0,
        zorder=5 if first else 3,
    )
    parts = [
        shown.name,
        f"K={kind.k}" if kind.k and kind.architecture != "dense_mlp" else "",
        f"lr {kind.lr}" if kind.lr else "",
    ]
    text = " ".join(part for part in parts if part) + (f"\n{kind.variant}" if kind.variant else "")
    return Label(text, shown.colour, whole[-1], bold=first and not kind.variant)


def _ticks(panel: Axes, values: Sequence[float]) -> None:
    panel.margins(x=0.03)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: compact(x)))
    few = max(values) / min(values) < 10
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if few else (1.0, 2.0, 5.0)
    panel.yaxis.set_major_locator(LogLocator(subs=subs))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    panel.yaxis.set_minor_locator(NullLocator())
