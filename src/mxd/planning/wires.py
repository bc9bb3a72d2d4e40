"""What joins processes: a speed and a latency."""

from __future__ import annotations

from dataclasses import dataclass

from mxd.planning.devices import Device

LINK_LATENCY, NETWORK_LATENCY = 5e-6, 15e-6
"""Seconds of one hop of a ring, within a node and between nodes. Assumed; not measured."""


@dataclass(frozen=True)
class Wire:
    """What joins processes."""

    speed: float
    """Bytes a second, in one direction."""
    latency: float
    """Seconds of one hop."""


def wire_of(device: Device, ranks: int, stride: int, per_node: int) -> Wire | None:
    """What joins the processes of a group; within a node as long as the group is in one.

    Args:
        device: the kind of device.
        ranks: processes of the group.
        stride: distance between neighbours of the group, in ranks.
        per_node: devices of a node.
    """
    near = ranks * stride <= per_node
    speed = device.link if near else device.network
    return None if speed is None else Wire(speed, LINK_LATENCY if near else NETWORK_LATENCY)
