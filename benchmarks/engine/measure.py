"""Measure one cell: every contender takes its turns, round after round, so that all see alike."""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.engine.cells import Cell, needed_bytes
from benchmarks.engine.contenders import Contender, ContenderError

TURN_SECONDS = 0.5
"""A turn takes as many steps as fit in this, at least one and at most ten."""
PATIENCE_SECONDS = 45.0
"""Where already the first step takes longer, it is the only one, and the result says so."""
LEAST_ROUNDS = 3
APART = (1, 2)
"""Steps in the turns of contenders whose layers do not fit into memory at one time."""


def measure(
    cell: Cell,
    workers: Mapping[str, Contender],
    *,
    memory: int,
    more: Callable[[], bool] = lambda: True,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Results of every contender on one cell.

    Args:
        cell: what to measure.
        workers: the contenders' processes.
        memory: bytes that may be used; what would not fit is skipped.
        more: whether there is time for a round beyond the first three.
        say: told of every contender that is ready.

    Returns:
        For each contender: what its worker told, `seconds` of every step in order, `median`, `q1`,
        `q3`, and `beyond_bytes`; or `{"skipped": why}` or `{"error": why}`.
    """
    results: dict[str, dict[str, Any]] = {}
    for name in cell.contenders:
        needed = needed_bytes(cell.case, name)
        if needed > memory:
            results[name] = {"skipped": f"needs about {needed / 1e9:.0f} GB"}
    racing = [name for name in cell.contenders if name not in results]
    together = sum(needed_bytes(cell.case, name) for name in racing) <= memory
    turns = _Turns(cell, workers, stay=together, say=say)
    least = min(LEAST_ROUNDS, cell.rounds)
    for number, steps in enumerate([None] * cell.rounds if together else APART):
        if together and number >= least and not more():
            break
        for name in racing:
            turns.take(name, results, steps)
    for name in racing:
        turns.leave(name, results)
    return {name: _summary(results[name]) for name in cell.contenders}


class _Turns:
    """Whose layers are in memory, and one turn of one contender."""

    def __init__(
        self,
        cell: Cell,
        workers: Mapping[str, Contender],
        *,
        stay: bool,
        say: Callable[[str], None],
    ) -> None:
        self._cell, self._workers, self._stay, self._say = cell, workers, stay, say
        self._present: set[str] = set()

    def take(self, name: str, results: dict[str, dict[str, Any]], steps: int | None) -> None:
        """Some steps, as many as fit in a turn where they are not given.

        Between turns the layer stays in memory only where those of all contenders fit.
        """
        found = results.setdefault(name, {"seconds": []})
        if "error" in found or "note" in found:
            return
        worker = self._workers[name]
        try:
            self._enter(name, found)
            if "note" in found:
                return
            fitting = min(10, max(1, int(TURN_SECONDS / found["first_step_seconds"])))
            found["seconds"] += worker.step(steps or fitting)
            if not self._stay:
                self._remember_peak(name, found)
        except ContenderError as error:
            results[name] = {"error": str(error)}
            self._present.discard(name)
            self._say(f"{name}: {error}")
            return
        if not self._stay:
            self._release(name)

    def leave(self, name: str, results: dict[str, dict[str, Any]]) -> None:
        """The memory of one more step, and the layer is let go."""
        if name not in self._present:
            return
        try:
            self._remember_peak(name, results[name])
        except ContenderError as error:
            results[name]["peak_error"] = str(error)
            self._present.discard(name)
            return
        self._release(name)

    def _enter(self, name: str, found: dict[str, Any]) -> None:
        if name in self._present:
            return
        found |= self._workers[name].prepare(self._cell.case)
        self._present.add(name)
        first = found["first_step_seconds"]
        if not found["seconds"]:
            self._say(f"{name}: first step {first:.2f} s")
        if first > PATIENCE_SECONDS:
            found["seconds"] = [first]
            found["note"] = "first step only: too slow to repeat"
            self._release(name)

    def _remember_peak(self, name: str, found: dict[str, Any]) -> None:
        if self._cell.peak and "beyond_bytes" not in found:
            found["beyond_bytes"] = self._workers[name].peak()

    def _release(self, name: str) -> None:
        self._workers[name].release()
        self._present.discard(name)


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    if not found.get("seconds"):
        return found
    seconds = found["seconds"]
    low, high = np.quantile(seconds, [0.25, 0.75])
    return found | {"median": statistics.median(seconds), "q1": float(low), "q3": float(high)}


def free_bytes() -> int:
    """Nine tenths of the memory that is free now; on systems that do not tell, 8 GB."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return 8_000_000_000
    for line in info.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 * 9 // 10
    return 8_000_000_000
