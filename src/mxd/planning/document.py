"""A plan as a JSON document."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from mxd.planning.layouts import Division, Share
from mxd.planning.memory import Item, Peak
from mxd.planning.model import ModelShape
from mxd.planning.option import Option
from mxd.planning.plan import Plan
from mxd.planning.rates import StepTime, parts_of
from mxd.planning.students import StudentShape
from mxd.planning.weights import PACKED
from mxd.training.distributed.layout import Layout


def plan_document(plan: Plan, price_per_hour: float | None = None) -> dict[str, Any]:
    """Everything that a plan says, ready for JSON; sizes in bytes, times in seconds.

    Args:
        plan: the plan.
        price_per_hour: of one device, in any currency; None leaves the cost out.
    """
    training, option = plan.training, plan.option
    hours = plan.hours
    cost = None
    if price_per_hour is not None and hours is not None:
        cost = price_per_hour * plan.devices * hours
    return {
        "model": {
            **asdict(training.model),
            "sites": [asdict(site) for site in training.model.sites],
            "row_values": training.model.row_values,
        },
        "students": _students(training.students),
        "training": {
            "tokens": training.tokens,
            "steps": training.steps,
            "batch_tokens": training.batch_tokens,
            "buffer_tokens": training.buffer_rows,
            "buffer_element": training.buffer_element,
            "buffer_on_device": training.buffer_on_device,
            "precision": training.precision,
            "checkpoints": training.checkpoints,
        },
        "device": _device(plan),
        "layout": {
            **asdict(option.division.layout),
            "model_devices": option.division.model_devices,
            "fits": option.fits,
            "reason": plan.reason,
        },
        "memory": _memory(option),
        "per_token": per_token(option.share),
        "step": _step(option),
        "traffic": {**asdict(option.traffic), "total": option.traffic.total},
        "hops": asdict(option.share.hops()),
        "tokens_per_second": option.tokens_per_second,
        "floor_tokens_per_second": option.floor_tokens_per_second,
        "hours": hours,
        "device_hours": None if hours is None else hours * plan.devices,
        "price_per_hour": price_per_hour,
        "cost": cost,
        "notes": notes(plan),
    }


def per_token(share: Share) -> dict[str, float]:
    """Operations and bytes of memory traffic for a token, all layers and the language model."""
    training = share.training
    alone = Share(training, Division(Layout()))
    alike = Counter((one.architecture, one.shape) for one in training.students)
    flops = moved = 0
    for (architecture, shape), count in alike.items():
        for p in parts_of(architecture, shape, alone):
            flops += count * p.flops
            moved += count * (p.bytes + p.table_rows + p.batch_rows)
    model = training.model
    return {
        "harvest_flops": float(model.flops_per_token),
        "layers_flops": flops / training.batch_tokens,
        "harvest_bytes": model.weight_bytes_run / model.pass_tokens,
        "layers_bytes": moved / training.batch_tokens,
    }


def notes(plan: Plan) -> list[str]:
    """What a reader must know before believing the figures."""
    device, option, found = plan.device, plan.option, []
    if device.ceilings is None:
        found.append("Nobody has measured this device: give --calibrate or --ceilings for rates.")
    elif not device.measured:
        found.append(f"Rates of the {device.ceilings.name} are from its data sheet: not measured.")
    if device.ceilings is not None and device.distance_source == "assumed":
        found.append(
            f"Steps are assumed to take {device.distance:g} times their floor: not measured."
        )
    if device.host_memory_bytes is None:
        found.append(
            "The memory of a node's host is not known: whether its processes fit there is not "
            "looked at; give --host-memory."
        )
    found += _model_notes(plan.training.model)
    if plan.devices > 1:
        found.append("Communication is added to computation: nothing is taken to overlap.")
    if plan.devices > 1 and device.link is None:
        found.append("Communication between processes of this kind is not timed.")
    if option.division.model_devices > 1:
        found.append("A language model over several devices is experimental.")
    if option.division.model_devices > plan.per_node:
        found.append("The language model is split beyond a node, over the network between nodes.")
    if option.division.layout.experts > 1:
        found.append("Dense branches, skips and biases are whole on every device of a layer.")
    return found


def _model_notes(model: ModelShape) -> list[str]:
    found = []
    if not model.counted:
        found.append("The pass of the language model is estimated from the shapes of its weights.")
    if model.quantised in PACKED:
        found.append(
            f"The language model's bytes in {model.quantised} are estimated from the shapes of its "
            "linear layers, and its speed is that of unpacked weights."
        )
    elif model.quantised is not None:
        found.append(
            f"The configuration asks for weights quantised by {model.quantised}, which is not "
            f"planned: they are counted with {model.element} bytes each."
        )
    return found


def _students(students: tuple[StudentShape, ...]) -> list[dict[str, Any]]:
    """A line for each kind of layer, with the number of sites and seeds that have it."""
    kinds: Counter[tuple[str, Any]] = Counter()
    first: dict[tuple[str, Any], StudentShape] = {}
    for one in students:
        key = (one.architecture, one.shape)
        kinds[key] += 1
        first.setdefault(key, one)
    return [
        {
            "name": one.name.rpartition("-s")[0],
            "architecture": one.architecture,
            "count": kinds[key],
            "width": one.shape.units,
            "k": one.shape.k,
            "d_in": one.shape.d_in,
            "d_out": one.shape.d_out,
            "d_hidden": one.shape.hidden,
            "glu": one.shape.glu,
            "parameters": one.parameters,
            "unit_parameters": one.unit_parameters,
            "dense_parameters": one.dense_parameters,
            "training_bytes": 16 * one.parameters,
            "step_bytes": one.step_bytes,
        }
        for key, one in first.items()
    ]


def _device(plan: Plan) -> dict[str, Any]:
    device = plan.device
    return {
        "kind": device.kind,
        "name": None if device.ceilings is None else device.ceilings.name,
        "source": None if device.ceilings is None else device.ceilings.source,
        "count": plan.devices,
        "per_node": plan.per_node,
        "memory_bytes": device.memory_bytes,
        "host_memory_bytes": device.host_memory_bytes,
        "distance": device.distance,
        "distance_source": device.distance_source,
        "ceilings": None if device.ceilings is None else asdict(device.ceilings),
        "link": device.link,
        "network": device.network,
        "host_link": device.host_link,
    }


def _memory(option: Option) -> dict[str, Any]:
    return {
        "device_peak_bytes": option.device_peak.bytes,
        "device_peak_phase": option.device_peak.phase,
        "host_peak_bytes": option.host_peak.bytes,
        "host_peak_phase": option.host_peak.phase,
        "node_processes": option.node_processes,
        "node_bytes": option.node_bytes,
        "device": _items(option.items, "device", option.device_peak),
        "host": _items(option.items, "host", option.host_peak),
    }


def _items(items: tuple[Item, ...], where: str, at: Peak) -> list[dict[str, Any]]:
    return [
        {
            "name": item.name,
            "bytes": item.bytes,
            "phases": list(item.phases),
            "at_peak": item in at.items,
        }
        for item in items
        if item.where == where
    ]


def _step(option: Option) -> dict[str, Any]:
    return {"floor_seconds": _time(option.floor), "expected_seconds": _time(option.expected)}


def _time(time: StepTime | None) -> dict[str, float] | None:
    return None if time is None else {**vars(time), "total": time.total}
