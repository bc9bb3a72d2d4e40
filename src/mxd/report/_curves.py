"""Training curves: whether the students were still learning when the text ended."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from mxd.report._canvas import Label, Sheet
from mxd.report._looks import CONTROLS, look
from mxd.report._show import compact, number

Curve = list[tuple[float, float]]
"""(tokens, NMSE) from the start of training to its end."""


def show_curves(sheet: Sheet, panel: Axes, students: dict[str, Curve]) -> None:
    """Draw the students of one site."""
    panel.set_yscale("log")
    labels = [_draw(panel, name, curve) for name, curve in students.items()]
    _ticks(panel, [y for curve in students.values() for _, y in curve])
    sheet.label(panel, list({one.text: one for one in labels}.values()))  # seeds share a label


def curves_by_site(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Curves of every student at every site; rows without an error are left out."""
    found: dict[str, dict[str, Curve]] = {}
    for row in rows:
        tokens, error = number(row.get("tokens")), number(row.get("nmse"))
        if tokens is not None and error is not None and error > 0:
            students = found.setdefault(str(row.get("site")), {})
            students.setdefault(str(row.get("student")), []).append((tokens, error))
    return found


def _draw(panel: Axes, name: str, curve: Curve) -> Label:
    architecture, _, rest = name.partition("-k")
    shown = look(architecture)
    first = architecture == "mxd"
    panel.plot(
        *zip(*curve, strict=True),
        color=shown.colour,
        linestyle=shown.dashes,
        linewidth=2.0 if first else 1.3,
        marker=shown.marker if len(curve) == 1 else "",
        alpha=0.8 if architecture in CONTROLS else 1.0,
        zorder=5 if first else 3,
    )
    return Label(_label(shown.name, rest), shown.colour, curve[-1], bold=first)


def _label(architecture: str, rest: str) -> str:
    """The student's name, <architecture>-k<k>-w<width>-s<seed>[-lr<lr>], without its width."""
    k, _, behind = rest.partition("-")
    _, _, lr = behind.partition("-lr")
    parts = [architecture, f"K={k}" if k not in ("", "0") else "", f"lr {lr}" if lr else ""]
    return " ".join(part for part in parts if part)


def _ticks(panel: Axes, values: Sequence[float]) -> None:
    panel.margins(x=0.03)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: compact(x)))
    few = max(values) / min(values) < 10
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if few else (1.0, 2.0, 5.0)
    panel.yaxis.set_major_locator(LogLocator(subs=subs))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    panel.yaxis.set_minor_locator(NullLocator())
