"""Pictures of how units are used, and of how alike and how full of rank they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullLocator

from mxd.report._canvas import INK, Label, Sheet
from mxd.report._looks import look
from mxd.report._show import number, percent
from mxd.report.reading import mapping

Bins = tuple[list[float], list[float]]
"""Edges, and the share of units between two of them."""


def shares(layers: Sequence[Mapping[str, Any]], edges: str, counts: str) -> Bins | None:
    """Histogram of several layers as shares of their units, mean over the layers."""
    found: list[list[float]] = []
    borders: list[float] = []
    for layer in layers:
        low, many = _numbers(layer.get(edges)), _numbers(layer.get(counts))
        total = number(layer.get("units")) or sum(many)
        if len(low) != len(many) + 1 or not many or not total or (borders and low != borders):
            continue
        borders = low
        found.append([value / total for value in many])
    return (borders, np.mean(found, axis=0).tolist()) if found else None


def draw_usage(
    layers: Mapping[str, Sequence[Mapping[str, Any]]], stem: Path, facts: Sequence[str]
) -> list[Path]:
    """Draw how often units fire: a histogram of log10 frequency for each architecture.

    Args:
        layers: entries of `specialisation` by architecture, one for each seed.
        stem: path of the pictures without its ending.
        facts: what the title says below.

    Returns:
        The PNG and the SVG; nothing where there is no histogram to draw.
    """
    bins = {
        architecture: found
        for architecture, members in layers.items()
        if (found := shares(members, "log10_frequency_edges", "log10_frequency_counts"))
    }
    if not bins:
        return []
    sheet = Sheet(1, 1, wide=1.45, tall=1.0)
    sheet.title("How often units fire", facts)
    ((panel,),) = sheet.panels
    sheet.axes(panel, "share of tokens on which a unit fires", "share of units")
    labels = []
    for architecture, found in bins.items():
        dead = [number(one.get("dead_fraction")) for one in layers[architecture]]
        known = [one for one in dead if one is not None]
        said = f"\n{percent(sum(known) / len(known))} never fire" if known else ""
        labels.append(_steps(panel, architecture, found, said))
    panel.xaxis.set_major_locator(FixedLocator(list(range(-9, 1))))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * 10.0**x:g} %"))
    _trim(panel, list(bins.values()))
    panel.set_ylim(bottom=0)
    sheet.label(panel, labels)
    return sheet.save(stem)


def draw_similarity(
    layers: Mapping[str, Sequence[Mapping[str, Any]]], stem: Path, facts: Sequence[str]
) -> list[Path]:
    """Draw how alike units are: the cosine of each with its nearest other, by architecture.

    Args:
        layers: entries of `geometry` by architecture, one for each seed.
        stem: path of the pictures without its ending.
        facts: what the title says below.

    Returns:
        The PNG and the SVG; nothing where there is no histogram to draw.
    """
    bins = {}
    for architecture, members in layers.items():
        plain = [mapping(one.get("similarity")) for one in members]
        queried = [{**one, "units": one.get("queries")} for one in plain if one]
        found = shares(queried, "nearest_cosine_edges", "nearest_cosine_counts")
        if found:
            bins[architecture] = found
    if not bins:
        return []
    sheet = Sheet(1, 1, wide=1.45, tall=1.0)
    sheet.title("How alike units are", facts)
    ((panel,),) = sheet.panels
    sheet.axes(panel, "cosine with the nearest other unit", "share of units")
    labels = [_steps(panel, architecture, found, "") for architecture, found in bins.items()]
    _trim(panel, list(bins.values()))
    panel.set_ylim(bottom=0)
    sheet.label(panel, labels)
    return sheet.save(stem)


def draw_rank(
    ranks: Mapping[str, Sequence[Mapping[str, Any]]], stem: Path, facts: Sequence[str]
) -> list[Path]:
    """Draw normalised rank and smallest singular value of the sampled experts of each layer.

    Args:
        ranks: `rank` of entries of `geometry`, by what to write below their column.
        stem: path of the pictures without its ending.
        facts: what the title says below.

    Returns:
        The PNG and the SVG.
    """
    sheet = Sheet(1, 2, inner=0.15, room=0.3)
    sheet.title("Rank of the experts of each MxD", facts)
    ((left, right),) = sheet.panels
    _columns(left, ranks, "normalised_rank")
    low = min((y for one in ranks.values() for y in _all(one, "normalised_rank")), default=1.0)
    left.set_ylim(min(low - 0.02, 0.9), 1.01)
    sheet.axes(left, "K, active units per token", "rank(Wₙ) / min(H, O)")
    _columns(right, ranks, "smallest_singular_value")
    values = [y for one in ranks.values() for y in _all(one, "smallest_singular_value")]
    if values and min(values) > 0:
        right.set_yscale("log")
        right.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        right.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        right.yaxis.set_minor_locator(NullLocator())
    sheet.axes(right, "K, active units per token", "smallest singular value of Wₙ")
    return sheet.save(stem)


def _columns(panel: Axes, ranks: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> None:
    """A column of points for each K, its median a line across."""
    colour = look("mxd").colour
    for place, members in enumerate(ranks.values()):
        values = _all(members, key)
        if not values:
            continue
        beside = np.linspace(-0.24, 0.24, len(values)) if len(values) > 1 else np.zeros(1)
        panel.scatter(place + beside, sorted(values), s=9, color=colour, alpha=0.35, linewidths=0)
        middle = float(np.median(values))
        panel.plot([place - 0.32, place + 0.32], [middle, middle], color=INK, linewidth=1.2)
    panel.xaxis.set_major_locator(FixedLocator([float(place) for place in range(len(ranks))]))
    panel.xaxis.set_major_formatter(FixedFormatter(list(ranks)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlim(-0.6, len(ranks) - 0.4)


def _steps(panel: Axes, architecture: str, found: Bins, said: str) -> Label:
    shown = look(architecture)
    edges, heights = found
    first = architecture == "mxd"
    panel.stairs(
        heights,
        edges,
        color=shown.colour,
        linestyle=shown.dashes,
        linewidth=2.0 if first else 1.3,
        zorder=5 if first else 3,
        fill=False,
    )
    last = max((place for place, height in enumerate(heights) if height > 0), default=0)
    middle = (edges[last] + edges[last + 1]) / 2
    return Label(shown.name + said, shown.colour, (middle, heights[last]), bold=first)


def _trim(panel: Axes, bins: Sequence[Bins]) -> None:
    """Leave out the empty bins at both ends."""
    used = [
        edge
        for edges, heights in bins
        for place, height in enumerate(heights)
        if height > 0
        for edge in (edges[place], edges[place + 1])
    ]
    if used:
        panel.set_xlim(min(used) - 0.02, max(used) + 0.02)


def _all(members: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [value for one in members for value in _numbers(one.get(key))]


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, list):
        return []
    found = [number(value) for value in values]
    return [value for value in found if value is not None] if None not in found else []
