"""From the layers of an evaluation to the lines of a picture."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from mxd.errors import UserError
from mxd.report._looks import rank
from mxd.report._show import number


class Point(NamedTuple):
    """One place in a picture."""

    k: int | None
    """K, or None for an architecture without."""
    x: float | None
    """Horizontal value; None for what has none."""
    y: float
    """Vertical value."""
    bar: float
    """Half-width of its 95 % interval; 0 where there is none."""


class Series(NamedTuple):
    """One architecture."""

    architecture: str
    """Its name in the file format."""
    line: list[Point]
    """A point for each K: the mean over seeds of the best layer of each seed."""
    single: list[Point]
    """Every layer, where a point of the line stands for several; else empty."""


def by_site(evaluation: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The layers of each site.

    Raises:
        UserError: there are no layers.
    """
    layers: Sequence[dict[str, Any]] = evaluation.get("layers") or []
    if not layers:
        raise UserError("got an evaluation without layers, expected at least one to draw")
    sites = dict.fromkeys(str(layer.get("site")) for layer in layers)
    return {site: [one for one in layers if str(one.get("site")) == site] for site in sites}


def series(layers: Sequence[dict[str, Any]], x: str, y: str) -> list[Series]:
    """Lines of one panel, in the order of the tables.

    Args:
        layers: layers of one site.
        x: key of the horizontal figure.
        y: key of the vertical figure; layers that lack it are left out.
    """
    drawable = [layer for layer in layers if number(layer.get(y)) is not None]
    drawable.sort(
        key=lambda one: (rank(one["architecture"]), one["architecture"], one.get("k") or 0)
    )
    found = []
    for architecture, members in groupby(drawable, key=lambda one: str(one["architecture"])):
        line: list[Point] = []
        single: list[Point] = []
        for _, alike in groupby(members, key=lambda one: one.get("k")):
            group = list(alike)
            line.append(_mean([_point(one, x, y) for one in _best_of_each_seed(group)]))
            single += [_point(one, x, y) for one in group] if len(group) > 1 else []
        found.append(Series(architecture, line, single))
    return found


def _best_of_each_seed(group: list[dict[str, Any]]) -> list[dict[str, Any]]:
    best: dict[Any, dict[str, Any]] = {}
    for layer in sorted(group, key=lambda one: number(one.get("nmse")) or 0.0):
        best.setdefault(layer.get("seed"), layer)
    return list(best.values())


def _point(layer: dict[str, Any], x: str, y: str) -> Point:
    error = number(layer.get(f"{y}_se")) or 0.0
    return Point(layer.get("k"), number(layer.get(x)), float(layer[y]), 1.96 * error)


def _mean(points: list[Point]) -> Point:
    """Seeds share their text, so its sampling error does not shrink with their number."""
    size = len(points)
    places = [point.x for point in points if point.x is not None]
    return Point(
        points[0].k,
        sum(places) / len(places) if places else None,
        sum(point.y for point in points) / size,
        sum(point.bar for point in points) / size,
    )
