"""From the layers of an evaluation to the lines of a picture and of a table."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from mxd.errors import UserError
from mxd.report._intervals import of_layers
from mxd.report._looks import CONTROLS, rank
from mxd.report._names import parse_name
from mxd.report._show import number
from mxd.report.reading import mappings


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


class Alike(NamedTuple):
    """Layers that differ in nothing but seed and learning rate."""

    architecture: str
    """Their architecture."""
    k: int | None
    """Their K."""
    variant: str | None
    """Label of the ablation they belong to."""
    best: list[dict[str, Any]]
    """For each seed the layer with the lowest NMSE."""
    every: list[dict[str, Any]]
    """All of them."""


def by_site(evaluation: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The layers of each site.

    Raises:
        UserError: there are no layers.
    """
    layers = mappings(evaluation.get("layers"))
    if not layers:
        raise UserError("got an evaluation without layers, expected at least one to draw")
    sites = dict.fromkeys(str(layer.get("site")) for layer in layers)
    return {site: [one for one in layers if str(one.get("site")) == site] for site in sites}


def alike(layers: Sequence[dict[str, Any]]) -> list[Alike]:
    """Layers of one site by architecture, K and ablation, in the order of the tables."""

    def kind(layer: dict[str, Any]) -> tuple[int, str, float, str]:
        architecture = str(layer.get("architecture"))
        variant = parse_name(layer.get("name")).variant or ""
        return rank(architecture), architecture, number(layer.get("k")) or 0.0, variant

    found = []
    for (_, architecture, k, variant), members in groupby(sorted(layers, key=kind), key=kind):
        every = list(members)
        best = _best_of_each_seed(every)
        found.append(Alike(architecture, int(k) or None, variant or None, best, every))
    return found


def base_line(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers that are no ablation."""
    return [layer for layer in layers if parse_name(layer.get("name")).variant is None]


def series(layers: Sequence[dict[str, Any]], x: str, y: str) -> list[Series]:
    """Lines of one panel, in the order of the tables.

    Args:
        layers: layers of one site; ablations are left out.
        x: key of the horizontal figure.
        y: key of the vertical figure; layers that lack it are left out.
    """
    drawable = [layer for layer in base_line(layers) if number(layer.get(y)) is not None]
    found = []
    for architecture, sets in groupby(alike(drawable), key=lambda one: one.architecture):
        line: list[Point] = []
        single: list[Point] = []
        for one in sets:
            line.append(_mean(one, x, y))
            if len(one.every) > 1:
                single += [_point(layer, x, y) for layer in one.every]
        found.append(Series(architecture, line, single))
    return found


def _best_of_each_seed(group: list[dict[str, Any]]) -> list[dict[str, Any]]:
    best: dict[Any, dict[str, Any]] = {}
    for layer in sorted(group, key=lambda one: number(one.get("nmse")) or 0.0):
        best.setdefault(str(layer.get("seed")), layer)
    return list(best.values())


def _point(layer: dict[str, Any], x: str, y: str) -> Point:
    error = number(layer.get(f"{y}_se")) or 0.0
    return Point(layer.get("k"), number(layer.get(x)), float(layer[y]), 1.96 * error)


def _mean(one: Alike, x: str, y: str) -> Point:
    """Mean over seeds; its interval is between seeds, or by document where there is one seed."""
    places = of_layers(one.best, x)
    values = of_layers(one.best, y)
    assert values is not None  # layers without were left out
    return Point(one.k, None if places is None else places.mean, values.mean, values.half or 0.0)


def shown_k(layers: Sequence[dict[str, Any]]) -> int | None:
    """The K for a picture that has room for one: that of most architectures, the middle of those.

    Controls without a K are beside the point; None where no layer has one.
    """
    kinds: dict[int, set[str]] = {}
    for layer in base_line(layers):
        k = number(layer.get("k")) or parse_name(layer.get("name")).k
        architecture = str(layer.get("architecture"))
        if k and architecture not in CONTROLS:
            kinds.setdefault(int(k), set()).add(architecture)
    most = max(map(len, kinds.values()), default=0)
    best = sorted(k for k, architectures in kinds.items() if len(architectures) == most)
    return best[len(best) // 2] if best else None


def at_k(layers: Sequence[dict[str, Any]], k: int | None) -> dict[str, list[dict[str, Any]]]:
    """The base-line layers at one K by architecture, one for each seed, in the tables' order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in alike(base_line(_with_k(layers))):
        if one.k == k:
            found[one.architecture] = one.best
    return found


def _with_k(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Layers with the K and seed that their name says, where they do not say it themselves."""
    found = []
    for layer in layers:
        student = parse_name(layer.get("name"))
        found.append({"k": student.k, "seed": student.seed} | layer)
    return found


def sets_of(layers: Sequence[dict[str, Any]]) -> list[tuple[str, Alike]]:
    """Site and layers that differ in nothing but their seed, ablations among them."""
    sites = dict.fromkeys(str(layer.get("site")) for layer in layers)
    return [
        (site, one)
        for site in sites
        for one in alike(_with_k([each for each in layers if str(each.get("site")) == site]))
    ]
