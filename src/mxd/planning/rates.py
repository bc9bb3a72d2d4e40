"""How long a step takes: floors of its parts at a device's ceilings, and bytes over its wires."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from mxd.planning.devices import Device
from mxd.planning.layouts import Division, Share
from mxd.planning.shape import Shape
from mxd.planning.wires import Wire, wire_of
from mxd.planning.work import ELEMENT, Ceilings, Part, floor_seconds, step_parts


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step by what they are spent on; nothing is taken to overlap."""

    harvest: float
    """The language model, for as many tokens as a step uses."""
    gate: float
    """Product and top-k of the gates, and the gradient of their weights."""
    rows: float
    """Weighted sums of active rows, both ways, and the loss."""
    dense: float
    """Dense branches and skips, both ways."""
    optimizer: float
    """AdamW."""
    buffer: float
    """Activations on their way into a buffer in the host's memory and back."""
    wires: float
    """Communication between processes."""

    @property
    def total(self) -> float:
        """The whole step."""
        return float(sum(vars(self).values()))

    def largest(self) -> str:
        """The part that takes longest."""
        return max(vars(self), key=lambda name: float(vars(self)[name]))

    def scaled(self, distance: float) -> StepTime:
        """The same with computation (not wires) that many times slower."""
        far = {name: seconds * distance for name, seconds in vars(self).items()}
        return StepTime(**{**far, "wires": self.wires, "buffer": self.buffer})


def step_time(share: Share, device: Device, ceilings: Ceilings, per_node: int) -> StepTime:
    """The least time of a step on the busiest process.

    Args:
        share: what the process has.
        device: its wires.
        ceilings: what it can do.
        per_node: devices of a node.
    """
    groups = {"gate": 0.0, "rows": 0.0, "dense": 0.0, "optimizer": 0.0}
    precision = share.training.precision
    alike = Counter((student.architecture, student.shape) for student in share.students)
    for (architecture, shape), count in alike.items():
        for part in parts_of(architecture, shape, share):
            groups[_group(part)] += count * floor_seconds(part, ceilings, precision)
    return StepTime(
        harvest=_harvest(share, ceilings),
        buffer=_buffer(share, device),
        wires=_wires(share, device, per_node),
        **groups,
    )


def parts_of(architecture: str, shape: Shape, share: Share) -> list[Part]:
    """The parts of a layer's step that one process computes.

    Its share of the units sees all tokens of its data coordinate; its dense parts see its own
    tokens; a selected unit lies on one of the processes, so sums of rows are divided evenly.
    """
    experts = share.division.layout.experts
    units = math.ceil(shape.units / experts)
    gathered = replace(shape, units=units, tokens=share.tokens)
    own = replace(shape, units=units, tokens=share.own_tokens)
    element = ELEMENT[share.training.precision]
    selecting = [part for part in step_parts(architecture, gathered, element) if _selects(part)]
    rest = [part for part in step_parts(architecture, own, element) if not _selects(part)]
    return [*selecting, *rest]


def _selects(part: Part) -> bool:
    return part.group == "gate_forward"


def _group(part: Part) -> str:
    if part.group == "optimizer":
        return "optimizer"
    if part.group.startswith("gate"):
        return "gate"
    return "dense" if part.group.startswith("dense") else "rows"


def _harvest(share: Share, ceilings: Ceilings) -> float:
    model, split = share.training.model, share.division.model_devices
    tokens = share.training.batch_tokens / share.division.model_copies
    precision = {2: "bf16", 4: "float32"}.get(model.element, "float32")
    rate = ceilings.flops.get(precision, ceilings.flops["float32"])
    weights = model.weight_bytes_run * tokens / model.pass_tokens
    return max(tokens * model.flops_per_token / rate, weights / ceilings.bandwidth) / split


def _buffer(share: Share, device: Device) -> float:
    training = share.training
    if device.host_link is None or training.buffer_on_device:
        return 0.0
    tokens = training.batch_tokens / share.division.model_copies
    return 2 * tokens * training.model.row_values * training.buffer_element / device.host_link


def _wires(share: Share, device: Device, per_node: int) -> float:
    division, sent, hops = share.division, share.traffic(), share.hops()
    layout, group = division.layout, division.group
    between = [
        (wire_of(device, group, 1, per_node), sent.rows, hops.rows),
        (
            wire_of(device, layout.experts, 1, per_node),
            sent.candidates + sent.sums,
            hops.experts,
        ),
        (wire_of(device, layout.data, group, per_node), sent.gradients, hops.gradients),
        (_replicas_wire(division, device, per_node), sent.replicated, hops.replicated),
        (wire_of(device, division.model_devices, 1, per_node), sent.model, hops.model),
    ]
    times = (size / wire.speed + n * wire.latency for wire, size, n in between if wire is not None)
    return sum(times, 0.0)


def _replicas_wire(division: Division, device: Device, per_node: int) -> Wire | None:
    """What joins all processes of a layer: from the first data coordinate to the last."""
    layout = division.layout
    spanned = layout.experts if layout.data == 1 else layout.data * division.group
    return wire_of(device, spanned, 1, per_node)
