"""Time work on a device: after a warm-up, all contenders in each round, medians; peak memory."""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import TypedDict

import torch


class Timing(TypedDict):
    """Seconds of a piece of work over the rounds."""

    median: float
    lowest: float
    highest: float
    rounds: int


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    *,
    warm_up: int = 3,
    calls: int = 1,
) -> dict[str, Timing]:
    """Seconds of each piece of work, as the device's own events have them where it is a GPU.

    Short pieces need several calls for one reading, so that the device does not wait for launches.
    """
    for work in works.values():
        for _ in range(warm_up):
            work()
    wait(device)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(_once(work, device, calls))
    return {name: summary(found) for name, found in seconds.items()}


def _once(work: Callable[[], object], device: torch.device, calls: int) -> float:
    if device.type != "cuda":
        started = perf_counter()
        for _ in range(calls):
            work()
        return (perf_counter() - started) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / calls


def summary(seconds: list[float]) -> Timing:
    """Median and range."""
    return {
        "median": median(seconds),
        "lowest": min(seconds),
        "highest": max(seconds),
        "rounds": len(seconds),
    }


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """The most memory that a call holds beyond what was allocated before; None off GPUs."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)
