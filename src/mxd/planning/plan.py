"""From a training and some devices to a layout: what fits, how fast, and why this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mxd.errors import UserError
from mxd.planning.devices import Device
from mxd.planning.layouts import Share, divisions, divisions_of
from mxd.planning.option import Option, option_of
from mxd.planning.reasons import complexity, reason
from mxd.planning.training import Training
from mxd.training.distributed.layout import Layout

NEAR = 1.03
"""Of layouts whose steps are this near to the shortest, the simplest is taken."""
MOST_DEVICES = 100_000


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
    options = [option_of(Share(training, way), device, per_node) for way in ways]
    best = _best(options)
    return Plan(training, device, devices, per_node, best, reason(best, options, device, layout))


def _check_precision(training: Training, device: Device) -> None:
    if device.ceilings is not None and training.precision not in device.ceilings.flops:
        known = ", ".join(device.ceilings.flops)
        raise UserError(
            f"got precision {training.precision}, expected one that {device.ceilings.name} has a "
            f"rate for: {known}; choose one of these"
        )


def _best(options: Sequence[Option]) -> Option:
    fitting = [one for one in options if one.fits]
    if not fitting:
        return min(options, key=_excess)
    # A model over several devices is experimental: no more of it than memory asks for.
    least = min(one.division.model_devices for one in fitting)
    fitting = [one for one in fitting if one.division.model_devices == least]
    if fitting[0].expected is None:
        return min(fitting, key=lambda one: (one.traffic.total, complexity(one)))
    shortest = min(_seconds(one) for one in fitting)
    near = [one for one in fitting if _seconds(one) <= NEAR * shortest]
    return min(near, key=complexity)


def _excess(option: Option) -> tuple[bool, int]:
    """Of options that do not fit: the least on a device; of those that fit there, on a host."""
    held = option.node_bytes if option.fits_device else option.device_peak.bytes
    return not option.fits_device, held


def _seconds(option: Option) -> float:
    assert option.expected is not None
    return option.expected.total
