"""Confidence intervals: test rows drawn anew with replacement, whole documents at a time."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64

Interval = tuple[float, float]


class Resamples:
    """The same resamples for every class and layer, so that differences are paired.

    Args:
        clusters: what each test row is a part of; whole clusters are drawn.
        count: how many resamples.
        seed: seed of the draws.
    """

    def __init__(self, clusters: Sequence[str], count: int, seed: int) -> None:
        names, self._cluster = np.unique(np.array(clusters), return_inverse=True)
        even = np.full(len(names), 1 / len(names))
        rng = np.random.default_rng(seed)
        self._times = rng.multinomial(len(names), even, size=count).astype(np.float32)
        """How often each resample holds each cluster."""

    def f1(
        self, truth: Bool[np.ndarray, " rows"], predicted: Bool[np.ndarray, " rows"]
    ) -> Float64[np.ndarray, " resamples"]:
        """F1 of a class in each resample; 0 in one that has nothing of the class."""
        counts = [
            self._times @ np.bincount(self._cluster, which, minlength=self._times.shape[1])
            for which in (truth & predicted, truth ^ predicted)
        ]
        hits, wrong = (each.astype(np.float64) for each in counts)
        total = 2 * hits + wrong
        return np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)


def interval(values: Float64[np.ndarray, " resamples"]) -> Interval:
    """The 95 % interval by percentiles."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
