"""Why a plan is as it is, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from mxd.planning.devices import Device
from mxd.planning.option import Option
from mxd.training.distributed.layout import Layout


def reason(best: Option, options: Sequence[Option], device: Device, asked: Layout | None) -> str:
    """Why this option was taken.

    Args:
        best: the one that was taken.
        options: all that there are.
        device: what they are for.
        asked: the layout that was asked for; None where the best was to be found.
    """
    memory = gigabytes(best.device_peak.bytes)
    room = "" if device.memory_bytes is None else f" of {gigabytes(device.memory_bytes)}"
    if not best.fits:
        what = "no layout" if asked is None else "the layout asked for"
        need = "the smallest needs" if asked is None else "it needs"
        return f"{what} fits: {need} {_lacking(best, device)}"
    if asked is not None:
        return f"this layout was asked for; it fits, with {memory}{room} on the busiest device"
    plain = next((one for one in options if complexity(one) == (1, 1, 1)), None)
    if best.division.ranks == 1:
        return f"one device holds everything: {memory}{room}"
    if best is plain:
        return _why_plain(best, memory + room)
    if plain is None:
        return f"{_measures(best)}: a batch has too few tokens for data parallel alone"
    if not plain.fits_device:
        return (
            f"a device that held everything would need {gigabytes(plain.device_peak.bytes)}{room}, "
            f"so {_measures(best)}; that needs {memory}"
        )
    if not plain.fits_host:
        assert device.host_memory_bytes is not None
        return (
            f"data parallel alone would need {gigabytes(plain.node_bytes)} of "
            f"{gigabytes(device.host_memory_bytes)} in a host's memory, so {_measures(best)}; that "
            f"needs {gigabytes(best.node_bytes)}"
        )
    assert best.expected is not None or plain.expected is None
    if best.expected is None or plain.expected is None:
        return f"{_measures(best)}: of the layouts that fit it sends the least"
    return (
        f"everything would fit one device, but a step of data parallel alone takes "
        f"{_milliseconds(plain.expected.total)} and this one {_milliseconds(best.expected.total)}, "
        f"because {_measures(best)}"
    )


def complexity(option: Option) -> tuple[int, int, int]:
    """How far a division is from data parallel alone."""
    layout = option.division.layout
    return option.division.model_devices, layout.experts, layout.students


def _lacking(option: Option, device: Device) -> str:
    """What there is too much of, and what can be done."""
    if not option.fits_device:
        assert device.memory_bytes is not None
        first = option.device_peak.items[0]
        return (
            f"{gigabytes(option.device_peak.bytes)} of {gigabytes(device.memory_bytes)} on a "
            f"device, most of it for {first.name} ({gigabytes(first.bytes)}); take more devices, "
            "narrower layers, fewer layers at a time or smaller batches"
        )
    assert device.host_memory_bytes is not None
    first = (option.device_peak if device.is_cpu else option.host_peak).items[0]
    return (
        f"{gigabytes(option.node_bytes)} of {gigabytes(device.host_memory_bytes)} in a host's "
        f"memory for {option.node_processes} processes, most of it for {first.name} "
        f"({gigabytes(first.bytes)} for each); take a smaller shuffle buffer or one in bfloat16, "
        "fewer layers at a time or more nodes"
    )


def _why_plain(best: Option, memory: str) -> str:
    if best.expected is None:
        return f"everything fits one device ({memory}), so that only gradients are exchanged"
    share = best.expected.wires / best.expected.total
    return (
        f"everything fits one device ({memory}), and summing gradients takes {share:.0%} of a step"
    )


def _measures(option: Option) -> str:
    """What a division does beyond splitting the batch."""
    layout, found = option.division.layout, []
    if option.division.model_devices > 1:
        found.append(f"the language model is split over {option.division.model_devices} devices")
    if layout.students > 1:
        found.append(f"the layers are dealt out to {layout.students} groups")
    if layout.experts > 1:
        found.append(f"the units of each layer are sharded over {layout.experts} devices")
    return " and ".join(found)


def gigabytes(size: int | float) -> str:
    """Bytes for people, in decimal units."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return (
                f"{size / scale:.3g} {unit}"
                if size < 999.5 * scale
                else f"{size / scale:,.0f} {unit}"
            )
    return f"{size:.0f} B"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"
