"""95 % intervals: between seeds by Student's t, or by document where one seed was trained."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy import stats

from mxd.report._show import number

SEEDS, DOCUMENTS, NONE = "seeds", "documents", ""


class Interval(NamedTuple):
    """A mean with the half-width of its 95 % interval."""

    mean: float
    """Mean over the values."""
    half: float | None
    """Half-width; None where there is no interval."""
    n: int
    """How many seeds the mean is over."""
    kind: str
    """What the interval is over: `seeds`, `documents`, or nothing."""


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean over seeds with its interval: t(n − 1) · s / √n; a single value has none."""
    n = len(values)
    if n < 2:
        return Interval(values[0], None, n, NONE)
    half = float(stats.t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)
    return Interval(fmean(values), half, n, SEEDS)


def of_layers(layers: Sequence[dict[str, Any]], key: str) -> Interval | None:
    """A figure of layers that differ in nothing but their seed; None where none of them has it.

    Args:
        layers: one for each seed.
        key: the figure; a single layer's `<key>_se` gives the interval by document.
    """
    values = [value for layer in layers if (value := number(layer.get(key))) is not None]
    if not values:
        return None
    found = over_seeds(values)
    error = number(layers[0].get(f"{key}_se")) if len(layers) == 1 else None
    return found if error is None else found._replace(half=1.96 * error, kind=DOCUMENTS)


def mean_of(layers: Sequence[dict[str, Any]], key: str) -> float | None:
    """Mean of a figure over layers; None where none of them has it."""
    found = of_layers(layers, key)
    return None if found is None else found.mean
