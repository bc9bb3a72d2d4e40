"""One way to divide a training over devices: its memory, its time, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mxd.planning.devices import Device
from mxd.planning.layouts import Division, Share, Traffic
from mxd.planning.memory import Item, Peak, memory_items, peak
from mxd.planning.rates import StepTime, step_time

USABLE = 0.9
"""Share of a memory that a plan fills at most: allocators leave gaps."""


@dataclass(frozen=True)
class Option:
    """One way to divide a training, and what it comes to."""

    share: Share
    """What the busiest process has."""
    items: tuple[Item, ...]
    """Its memory."""
    node_processes: int
    """Processes of a node, which share its host's memory."""
    node_bytes: int
    """The most that they hold of it, if each needs most at the same time."""
    floor: StepTime | None
    """The least time of a step; None where nobody measured the device."""
    expected: StepTime | None
    """The same with computation as far from its floor as it is known or assumed to be."""
    fits_device: bool
    """Whether it fits into a device's memory, as far as that is known."""
    fits_host: bool
    """Whether a node's processes fit into its host's memory, as far as that is known."""

    @property
    def fits(self) -> bool:
        """Both."""
        return self.fits_device and self.fits_host

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


def option_of(share: Share, device: Device, per_node: int) -> Option:
    """What a share of a training comes to.

    Args:
        share: what the busiest process has.
        device: what it runs on.
        per_node: devices of a node.
    """
    items = tuple(memory_items(share, device))
    processes = min(share.division.ranks, per_node)
    held = peak(items).bytes
    node_bytes = processes * (held if device.is_cpu else peak(items, "host").bytes)
    floor = None
    if device.ceilings is not None:
        floor = step_time(share, device, device.ceilings, per_node)
    return Option(
        share=share,
        items=items,
        node_processes=processes,
        node_bytes=node_bytes,
        floor=floor,
        expected=None if floor is None else floor.scaled(device.distance),
        fits_device=_fits(held, device.memory_bytes),
        fits_host=_fits(node_bytes, device.host_memory_bytes),
    )


def _fits(size: int, memory: int | None) -> bool:
    return memory is None or size <= USABLE * memory
