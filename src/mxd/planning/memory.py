"""Memory of a training, part by part, and when each part is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mxd.planning.devices import Device
from mxd.planning.layouts import Share
from mxd.planning.work import INDEX, WEIGHT

PHASES = ("load", "fill", "start", "harvest", "step", "look", "finish")
"""Times of a run that differ in what is held: the model is read; the buffer is filled; means over
it are taken; the model runs for new rows; a layer makes a step; singular values are looked at;
statistics are taken and layers stored."""
_FILLED = ("start", "harvest", "step", "look", "finish")
_TRAINED = ("harvest", "step", "look", "finish")

PROCESS_BYTES = 714 * 10**6
"""Python, torch for CPUs, transformers, a tokenizer and what their kernels keep, resident. Fitted
to the cases `calibrate` of benchmarks/results/plan-check.json."""
GRADIENT_GAPS, ACTIVATION_GAPS = 1.0, 0.4
"""Room lost on a CPU beside a step's gradients and its activations, in units of these. Training
there keeps what is freed for the next step (`mxd.training.kept_memory`), and what has settled in
it meanwhile leaves too little room in one piece. Fitted likewise."""
ACCELERATOR_BYTES = 10**9
"""What a CUDA context and its libraries' workspaces take of a GPU. Assumed; not measured."""
SUMMED_ROWS = 4096
"""Rows that are summed in float64 at one time, for means of the outputs and for statistics
(`mxd.layers.sum_rows`)."""


@dataclass(frozen=True)
class Item:
    """One part of the memory of a process."""

    name: str
    """What it is."""
    where: str
    """`device`, or `host` beside an accelerator."""
    bytes: int
    """How much."""
    phases: tuple[str, ...]
    """When it is there."""


@dataclass(frozen=True)
class Peak:
    """The most that is held at one time."""

    bytes: int
    """How much."""
    phase: str
    """When."""
    items: tuple[Item, ...]
    """Of what, the largest first."""


def memory_items(share: Share, device: Device) -> list[Item]:
    """The memory of one process, part by part.

    On a CPU everything is the device's; beside an accelerator, the buffer, the copy for
    checkpoints and the process itself are the host's.

    Args:
        share: what the process has of the training.
        device: what it runs on.
    """
    host = "device" if device.is_cpu else "host"
    found = [
        Item("Python and libraries", host, PROCESS_BYTES, PHASES),
        *_model_items(share, device, host),
        *_buffer_items(share, device, host),
        *_student_items(share, device),
        *_end_items(share, host),
        *_whole_items(share, device, host),
    ]
    if not device.is_cpu:
        found.append(Item("CUDA context (assumed)", "device", ACCELERATOR_BYTES, PHASES))
    return [item for item in found if item.bytes > 0]


def peak(items: Sequence[Item], where: str = "device") -> Peak:
    """The phase in which the most is held."""
    there = [item for item in items if item.where == where]
    totals = {phase: sum(i.bytes for i in there if phase in i.phases) for phase in PHASES}
    phase = max(PHASES, key=lambda name: totals[name])
    held = sorted((i for i in there if phase in i.phases), key=lambda i: -i.bytes)
    return Peak(totals[phase], phase, tuple(held))


def _model_items(share: Share, device: Device, host: str) -> list[Item]:
    model, split = share.training.model, share.division.model_devices
    weights = model.weight_bytes // split
    found = [
        Item("language model, weights", "device", weights, PHASES),
        # On a CPU freed memory is kept, and what a pass leaves is of little use to a step.
        Item("language model, activations of a pass", "device", model.pass_bytes,
             ("fill", *_FILLED) if device.is_cpu else ("fill", "harvest")),
    ]  # fmt: skip
    on_its_way = "its file, mapped" if device.is_cpu else "on its way to the device"
    return [*found, Item(f"language model, {on_its_way}", host, model.file_bytes // split,
                         ("load",))]  # fmt: skip


def _buffer_items(share: Share, device: Device, host: str) -> list[Item]:
    training = share.training
    values, element = training.model.row_values, training.buffer_element
    where = "device" if training.buffer_on_device else host
    row, passed = values * element, training.model.pass_tokens
    batch = training.batch_tokens // share.division.model_copies
    widened = device.is_cpu and element == WEIGHT and share.division.group == 1
    found = [
        Item("shuffle buffer", where, share.rows * row, ("fill", *_FILLED)),
        Item("order of the buffer", host, 4 * INDEX * share.rows, ("fill", *_FILLED)),
        Item("rows of the last pass", where, passed * row, ("harvest", "step", "look")),
        Item("rows of passes made ahead", where, training.prefetch * passed * row, _TRAINED),
        Item("batch, as it left the buffer", where, batch * row, ("harvest", "step", "look")),
    ]
    if not widened:
        gathered = share.tokens * values * WEIGHT
        found.append(Item("batch, in float32", "device", gathered, ("step",)))
    return found


def _student_items(share: Share, device: Device) -> list[Item]:
    training = share.training
    weights = WEIGHT * share.all_parameters
    gradients, temporaries = _largest_step(share)
    found = [
        Item("layers, weights", "device", weights, ("start", *_TRAINED)),
        Item("layers, AdamW's moments", "device", 2 * weights, _TRAINED),
        Item("gradients of one layer", "device", gradients, ("step",)),
        Item("a step's activations", "device", temporaries, ("step",)),
    ]
    if device.is_cpu:
        gaps = int(GRADIENT_GAPS * gradients + ACTIVATION_GAPS * temporaries)
        found.append(Item("gaps that the allocator leaves", "device", gaps, ("step",)))
    if training.precision == "bf16":
        cast = max((2 * s.dense_parameters for s in share.students), default=0)
        found.append(Item("dense weights in bf16", "device", cast, ("step",)))
    mixtures = [s.shape for s in share.students if s.architecture == "mxd"]
    if training.track_experts and mixtures:
        decoder = max(2 * 8 * s.hidden * s.d_out for s in mixtures)
        found.append(Item("singular values, float64", "device", decoder, ("look",)))
    return found


def _largest_step(share: Share) -> tuple[int, int]:
    """Gradients and further bytes of the layer whose step needs most; layers go one by one."""
    best = (0, 0)
    for student in share.students:
        gradients = WEIGHT * share.parameters(student)
        if share.division.ranks == 1:
            rest = max(0, student.step_bytes - gradients)
        else:  # a bound: gradients and activations need not peak together
            rest = student.temporary_bytes * share.tokens // student.shape.tokens
        best = max(best, (gradients, rest), key=sum)
    return best


def _end_items(share: Share, host: str) -> list[Item]:
    training = share.training
    widest = max(site.d_out for site in training.model.sites)
    where = "device" if training.buffer_on_device else host
    summed = 8 * widest * min(SUMMED_ROWS, share.rows)
    found = [Item("means and statistics, float64", where, summed, ("start", "finish"))]
    if training.checkpoints:
        state = 3 * WEIGHT * share.all_parameters
        copied = share.rows * training.model.row_values * training.buffer_element
        found.append(Item("copy of the state for a checkpoint", host, state + copied,
                          ("harvest", "step", "look")))  # fmt: skip
    return found


def _whole_items(share: Share, device: Device, host: str) -> list[Item]:
    """Layers that are whole in the host's memory, however little of them a process trains."""
    sizes = [WEIGHT * student.parameters for student in share.students]
    sharded, found = share.division.layout.experts > 1, []
    if sharded or not device.is_cpu:
        found.append(Item("a whole layer, before it is cut or moved", host, max(sizes), ("start",)))
    if sharded:
        found.append(Item("a layer, put together", host, max(sizes), ("finish",)))
    elif not device.is_cpu:
        found.append(Item("a whole layer, on its way to a file", host, max(sizes), ("finish",)))
    return found
