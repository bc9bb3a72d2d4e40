"""A sheet of panels: sizes in inches, labels beside the lines, the same file for the same data."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from mxd._durable_files import replace_whole
from mxd.report._show import one_line

INK, FAINT = "#222222", "#8a8a8a"
_WIDTH, _HEIGHT = 3.35, 2.75  # of a panel
_LEFT, _ROOM, _TOP, _BOTTOM, _BETWEEN = 0.8, 2.05, 0.9, 0.6, 0.95
_FONT, _LINE = 9.0, 0.155  # points; inches from one line of a label to the next


class Label(NamedTuple):
    """Name of a line, written to the right of the panel."""

    text: str
    """One line or several."""
    colour: str
    """Colour of the line."""
    xy: tuple[float, float]
    """Where the line ends."""
    bold: bool = False
    """Whether to bring it to the fore."""


class Sheet:
    """Rows and columns of panels, each with room for labels on its right."""

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        wide: float = 1.0,
        tall: float = 1.0,
        left: float = _LEFT,
        inner: float = _ROOM,
        room: float = _ROOM,
    ) -> None:
        """Lay the panels out.

        Args:
            rows: rows of panels.
            columns: columns of panels.
            wide: width of a panel, in units of the usual one.
            tall: height of a panel, likewise.
            left: inches for the vertical axis of each panel.
            inner: inches for labels between two columns.
            room: inches for labels on the right of the last column.
        """
        self.panel_width, self.panel_height = _WIDTH * wide, _HEIGHT * tall
        step = self.panel_width + inner + left
        width = columns * step - inner + room
        height = _TOP + rows * self.panel_height + (rows - 1) * _BETWEEN + _BOTTOM
        self.figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(self.figure)
        self.size = (width, height)
        self.panels = [
            [self._panel(left + column * step, row) for column in range(columns)]
            for row in range(rows)
        ]

    def _panel(self, left: float, row: int) -> Axes:
        width, height = self.size
        bottom = height - _TOP - (row + 1) * self.panel_height - row * _BETWEEN
        panel = self.figure.add_axes(
            (left / width, bottom / height, self.panel_width / width, self.panel_height / height)
        )
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(FAINT)
        panel.tick_params(colors=INK, labelsize=_FONT, width=0.6, color=FAINT)
        panel.grid(axis="y", color="#e6e6e6", linewidth=0.7)
        panel.set_axisbelow(True)
        return panel

    def title(self, text: str, facts: Sequence[str]) -> None:
        """Title, and below it the facts that a reader needs to place the picture."""
        width, height = self.size
        left = (_LEFT - 0.5) / width
        limit = int((width - 0.6) * 13)  # characters of the small line that fit
        top = 1 - 0.18 / height
        kind: dict[str, Any] = {"va": "top", "parse_math": False}
        self.figure.text(left, top, text, size=12.5, weight="bold", color=INK, **kind)
        below = drawable(" · ".join(facts), limit)
        self.figure.text(left, top - 0.27 / height, below, size=9.5, color="#555555", **kind)

    def name_panel(self, panel: Axes, text: str) -> None:
        """Write above a panel which site it shows."""
        panel.set_title(
            drawable(text, 48), loc="left", size=_FONT + 0.5, color=INK, parse_math=False
        )

    def axes(self, panel: Axes, x: str, y: str) -> None:
        """Name a panel's axes."""
        panel.set_xlabel(x, size=_FONT + 0.5, color=INK)
        panel.set_ylabel(y, size=_FONT + 0.5, color=INK)

    def label(self, panel: Axes, labels: Sequence[Label]) -> None:
        """Write each label as near to the end of its line as the others let it."""
        to_panel = panel.transData + panel.transAxes.inverted()
        ordered = sorted(labels, key=lambda one: float(to_panel.transform(one.xy)[1]))
        heights = [(1 + one.text.count("\n")) * _LINE / self.panel_height for one in ordered]
        wanted = [float(to_panel.transform(one.xy)[1]) for one in ordered]
        for one, y in zip(ordered, spread(wanted, heights), strict=True):
            panel.annotate(
                "\n".join(drawable(line, 27) for line in one.text.split("\n")),
                one.xy,
                xytext=(1.05, y),
                textcoords="axes fraction",
                va="center",
                size=_FONT,
                color=one.colour,
                weight="bold" if one.bold else "normal",
                parse_math=False,
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": one.colour,
                    "alpha": 0.45,
                    "linewidth": 0.6,
                    "shrinkA": 1,
                    "shrinkB": 4,
                    "relpos": (0, 0.5),
                },
            )

    def key(self, panel: Axes, names: Sequence[str]) -> None:
        """Write names, with their strokes, beside a panel whose lines end in different places."""
        drawn = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        legend = panel.legend(
            [drawn[name] for name in names],
            names,
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            frameon=False,
            fontsize=_FONT,
            labelcolor=[_colour(drawn[name]) for name in names],
        )
        for text in legend.get_texts():
            text.set_parse_math(False)

    def save(self, stem: Path) -> list[Path]:
        """Write `<stem>.png` and `<stem>.svg`.

        Raises:
            UserError: the folder cannot be written to.
        """
        png, svg = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg"))
        draw = self.figure.savefig
        with mpl.rc_context({"svg.hashsalt": "mxd"}):
            replace_whole(png, lambda place: draw(place, format="png", dpi=150))
            replace_whole(svg, lambda place: draw(place, format="svg", metadata={"Date": None}))
        return [png, svg]


def plain_ticks(panel: Axes) -> None:
    """Take the names along both axes as text, not as formulae."""
    for tick in (*panel.get_xticklabels(), *panel.get_yticklabels()):
        tick.set_parse_math(False)


def _colour(drawn: Any) -> Any:
    """Colour of a line with or without bars; matplotlib's own choice is the marker's filling."""
    return (drawn[0] if isinstance(drawn, tuple) else drawn).get_color()


def drawable(text: str, limit: int) -> str:
    """One line of text, with a question mark for what the font cannot draw."""
    font = get_font(findfont(FontProperties()))
    return "".join(
        character if font.get_char_index(ord(character)) else "?"
        for character in one_line(text, limit)
    )


def spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Centres nearest to the wanted ones (least squares) at which no two labels overlap.

    Args:
        wanted: where each label would like to be, ascending, 0 to 1.
        heights: how high each label is.
    """
    below = [0.0] if wanted else []
    for lower, upper in pairwise(heights):
        below.append(below[-1] + (lower + upper) / 2)
    blocks: list[tuple[float, int]] = []  # isotonic regression of the centres, stacking taken off
    for y, offset in zip(wanted, below, strict=True):
        mean, size = y - offset, 1
        while blocks and blocks[-1][0] > mean:
            before, many = blocks.pop()
            mean, size = (before * many + mean * size) / (many + size), many + size
        blocks.append((mean, size))
    flat = [mean for mean, size in blocks for _ in range(size)]
    highest = max(0.0, 1.0 - max(below, default=0.0))
    return [min(max(mean, 0.0), highest) + offset for mean, offset in zip(flat, below, strict=True)]
