"""From a training and some devices to a layout: what fits, how fast, and why this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mxd.errors import UserError
from mxd.planning.devices import Device
from mxd.planning.layouts import Division, Share, Traffic, divisions, divisions_of
from mxd.planning.memory import Item, Peak, memory_items, peak
from mxd.planning.rates import StepTime, step_time
from mxd.planning.training import Training
from mxd.training.distributed.layout import Layout

USABLE = 0.9
"""Share of a device's memory that a plan fills at most: allocators leave gaps."""
NEAR = 1.03
"""Of layouts whose steps are this near to the shortest, the simplest is taken."""
MOST_DEVICES = 100_000


@dataclass(frozen=True)
class Option:
    """One way to divide a training, and what it comes to."""

    share: Share
    """What the busiest process has."""
    items: tuple[Item, ...]
    """Its memory."""
    floor: StepTime | None
    """The least time of a step; None where nobody measured the device."""
    expected: StepTime | None
    """The same with computation as far from its floor as it is known or assumed to be."""
    fits: bool
    """Whether it fits into a device's memory, as far as that is known."""

    @property
    def division(self) -> Division:
        """How the training is divided."""
        return self.share.division

    @cached_property
    def device_peak(self) -> Peak:
        """The most that a device holds."""
        return peak(self.items, "device")

    @cached_property
    def host_peak(self) -> Peak:
        """The most that a process holds beside its accelerator."""
        return peak(self.items, "host")

    @property
    def traffic(self) -> Traffic:
        """What a process sends in a step."""
        return self.share.traffic()

    @property
    def tokens_per_second(self) -> float | None:
        """Expected, of all processes together."""
        if self.expected is None:
            return None
        return self.share.training.batch_tokens / self.expected.total

    @property
    def floor_tokens_per_second(self) -> float | None:
        """The most that the ceilings allow."""
        return None if self.floor is None else self.share.training.batch_tokens / self.floor.total


@dataclass(frozen=True)
class Plan:
    """What a training needs, and the layout that is recommended for it."""

    training: Training
    """The training."""
    device: Device
    """The kind of device."""
    devices: int
    """How many."""
    per_node: int
    """Devices of a node."""
    option: Option
    """The recommended layout, or the asked one; where nothing fits, the one that needs least."""
    reason: str
    """Why, in one sentence."""

    @property
    def hours(self) -> float | None:
        """Expected duration of the whole run."""
        rate = self.option.tokens_per_second
        return None if rate is None else self.training.tokens / rate / 3600


def make_plan(
    training: Training,
    device: Device,
    *,
    devices: int = 1,
    per_node: int = 8,
    layout: Layout | None = None,
) -> Plan:
    """Lay out a training over devices.

    Args:
        training: what is trained.
        device: the kind of device.
        devices: how many; one process drives each.
        per_node: devices that are joined by fast links.
        layout: sizes of the mesh; None finds them.

    Raises:
        UserError: a number out of range, or a layout that the training cannot have.
    """
    for name, value in (("devices", devices), ("devices per node", per_node)):
        if not 1 <= value <= MOST_DEVICES:
            raise UserError(f"got {name} {value}, expected 1 to {MOST_DEVICES}")
    _check_precision(training, device)
    if layout is None:
        ways = list(divisions(training, devices))
    else:
        ways = list(divisions_of(training, layout))
    if not ways:
        raise UserError(
            f"got layout {layout} for {len(training.students)} layers and batches of "
            f"{training.batch_tokens} tokens, expected at most one group of processes for each "
            "layer, one part of a batch for each token, and layers with units where experts are "
            "sharded; give another layout"
            if layout is not None
            else f"got {devices} devices, expected a number over which {len(training.students)} "
            f"layers and batches of {training.batch_tokens} tokens can be divided"
        )
    options = [_option(training, way, device, per_node) for way in ways]
    best = _best(options)
    return Plan(training, device, devices, per_node, best, _reason(best, options, device, layout))


def _check_precision(training: Training, device: Device) -> None:
    if device.ceilings is not None and training.precision not in device.ceilings.flops:
        known = ", ".join(device.ceilings.flops)
        raise UserError(
            f"got precision {training.precision}, expected one that {device.ceilings.name} has a "
            f"rate for: {known}; choose one of these"
        )


def _option(training: Training, way: Division, device: Device, per_node: int) -> Option:
    share = Share(training, way)
    items = tuple(memory_items(share, device))
    known = device.memory_bytes
    fits = known is None or peak(items).bytes <= USABLE * known
    if device.ceilings is None:
        return Option(share, items, None, None, fits)
    floor = step_time(share, device, device.ceilings, per_node)
    return Option(share, items, floor, floor.scaled(device.distance), fits)


def _best(options: Sequence[Option]) -> Option:
    fitting = [one for one in options if one.fits]
    if not fitting:
        return min(options, key=lambda one: one.device_peak.bytes)
    # A model over several devices is experimental: no more of it than memory asks for.
    least = min(one.division.model_devices for one in fitting)
    fitting = [one for one in fitting if one.division.model_devices == least]
    if fitting[0].expected is None:
        return min(fitting, key=lambda one: (one.traffic.total, _complexity(one)))
    shortest = min(_seconds(one) for one in fitting)
    near = [one for one in fitting if _seconds(one) <= NEAR * shortest]
    return min(near, key=_complexity)


def _seconds(option: Option) -> float:
    assert option.expected is not None
    return option.expected.total


def _complexity(option: Option) -> tuple[int, int, int]:
    layout = option.division.layout
    return option.division.model_devices, layout.experts, layout.students


def _reason(best: Option, options: Sequence[Option], device: Device, asked: Layout | None) -> str:
    memory = f"{gigabytes(best.device_peak.bytes)}"
    room = "" if device.memory_bytes is None else f" of {gigabytes(device.memory_bytes)}"
    if not best.fits:
        first = best.device_peak.items[0]
        what = "the layout asked for" if asked is not None else "no layout"
        need = "it needs" if asked is not None else "the smallest needs"
        return (
            f"{what} fits: {need} {memory}{room} on a device, most of it for "
            f"{first.name} ({gigabytes(first.bytes)}); take more devices, narrower layers, fewer "
            "layers at a time or smaller batches"
        )
    if asked is not None:
        return f"this layout was asked for; it fits, with {memory}{room} on the busiest device"
    plain = next((one for one in options if _complexity(one) == (1, 1, 1)), None)
    if best.division.ranks == 1:
        return f"one device holds everything: {memory}{room}"
    if best is plain:
        return _why_plain(best, memory + room)
    if plain is None:
        return f"{_measures(best)}: a batch has too few tokens for data parallel alone"
    if not plain.fits:
        return (
            f"a device that held everything would need {gigabytes(plain.device_peak.bytes)}{room}, "
            f"so {_measures(best)}; that needs {memory}"
        )
    assert best.expected is not None or plain.expected is None
    if best.expected is None or plain.expected is None:
        return f"{_measures(best)}: of the layouts that fit it sends the least"
    return (
        f"everything would fit one device, but a step of data parallel alone takes "
        f"{_milliseconds(plain.expected.total)} and this one {_milliseconds(best.expected.total)}, "
        f"because {_measures(best)}"
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
