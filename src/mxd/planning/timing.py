"""Time pieces of work against each other: round by round, medians."""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import TypedDict


class Timing(TypedDict):
    """Seconds of a piece of work over the rounds."""

    median: float
    lowest: float
    highest: float
    rounds: int


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 1
) -> dict[str, Timing]:
    """Run every piece once in each round, so that a slow minute of the machine hits all alike."""
    for _ in range(warm_up):
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = perf_counter()
            work()
            seconds[name].append(perf_counter() - started)
    return {name: summary(found) for name, found in seconds.items()}


def summary(seconds: list[float]) -> Timing:
    """Median and range."""
    return {
        "median": median(seconds),
        "lowest": min(seconds),
        "highest": max(seconds),
        "rounds": len(seconds),
    }
