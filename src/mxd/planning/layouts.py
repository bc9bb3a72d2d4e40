"""How a training can be divided over processes, and what each of them then holds and sends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from mxd.planning.devices import Device
from mxd.planning.students import StudentShape
from mxd.planning.training import Training
from mxd.planning.work import INDEX, WEIGHT
from mxd.training.distributed.layout import Layout, dealt

LINK_LATENCY, NETWORK_LATENCY = 5e-6, 15e-6
"""Seconds of one hop of a ring, within a node and between nodes. Assumed; not measured."""


@dataclass(frozen=True)
class Wire:
    """What joins processes."""

    speed: float
    """Bytes a second, in one direction."""
    latency: float
    """Seconds of one hop."""


@dataclass(frozen=True)
class Division:
    """A layout of processes, and over how many of them one copy of the language model is split.

    One process drives one device. The processes that share a copy of the model run the same text
    and lie within one group of a data coordinate.
    """

    layout: Layout
    """Sizes of the mesh."""
    model_devices: int = 1
    """Devices that one copy of the language model is split over (tensor parallel)."""

    @property
    def ranks(self) -> int:
        """Processes, and devices."""
        return self.layout.world_size

    @property
    def group(self) -> int:
        """Processes of one data coordinate; they share the rows of their part of the batch."""
        return self.layout.students * self.layout.experts

    @property
    def model_copies(self) -> int:
        """Copies of the language model, each fed with text of its own."""
        return self.ranks // self.model_devices

    def __str__(self) -> str:
        split = f", language model over {self.model_devices}" if self.model_devices > 1 else ""
        return f"{self.layout}{split}"


@dataclass(frozen=True)
class Traffic:
    """Bytes that one process sends in a step, by what they are."""

    rows: int
    """Activations that the processes of a data coordinate gather from each other."""
    candidates: int
    """(value, index) pairs of an expert-parallel gate's local top-k."""
    sums: int
    """Partial sums of an expert-parallel combine, and their gradients."""
    gradients: int
    """Gradients summed over the data coordinates."""
    model: int
    """Sums within a language model that is split."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.rows + self.candidates + self.sums + self.gradients + self.model


@dataclass(frozen=True)
class Hops:
    """How often bytes of a step go from one process to the next, one after the other."""

    rows: int
    """One gathering for each site."""
    experts: int
    """Candidates, sums and their gradients of each layer."""
    gradients: int
    """One sum for each layer."""
    model: int
    """Two sums for each block and pass."""


@dataclass(frozen=True)
class Share:
    """What the busiest process has of a training."""

    training: Training
    """The training."""
    division: Division
    """How it is divided."""

    @cached_property
    def students(self) -> list[StudentShape]:
        """Its layers; those of the group that has the most parameters."""
        groups = self.division.layout.students
        every = self.training.students
        dealt_out = (
            [every[i] for i in dealt(len(every), groups, part)]
            for part in range(min(groups, len(every)))
        )
        return max(dealt_out, key=lambda of: sum(map(self.parameters, of)))

    @property
    def tokens(self) -> int:
        """Tokens of a step that its layers see."""
        return math.ceil(self.training.batch_tokens / self.division.layout.data)

    @property
    def own_tokens(self) -> int:
        """Tokens of a step whose dense parts it computes."""
        return math.ceil(self.tokens / self.division.layout.experts)

    @property
    def rows(self) -> int:
        """Rows of the shuffle buffer that it holds."""
        return math.ceil(self.training.buffer_rows / self.division.model_copies)

    def parameters(self, student: StudentShape) -> int:
        """Parameters of a layer that one process holds."""
        units = math.ceil(student.unit_parameters / self.division.layout.experts)
        return units + student.dense_parameters

    @property
    def all_parameters(self) -> int:
        """Parameters of all its layers."""
        return sum(map(self.parameters, self.students))

    def traffic(self) -> Traffic:
        """What it sends in a step; each formula is that of a ring."""
        model, layout, split = (
            self.training.model,
            self.division.layout,
            self.division.model_devices,
        )
        sources = self.division.group // split  # within a group, who holds rows of its own
        rows = self.tokens * model.row_values * WEIGHT * (sources - 1) // sources
        experts, data = layout.experts, layout.data
        candidates = sum(self.tokens * s.shape.k * (WEIGHT + INDEX) for s in self.students)
        outputs = sum(self.tokens * s.shape.d_out * WEIGHT for s in self.students)
        passed = self.training.batch_tokens // self.division.model_copies
        reduced = 2 * model.blocks_run * passed * model.width * model.element
        return Traffic(
            rows=rows,
            candidates=candidates * (experts - 1) // experts,
            sums=2 * outputs * (experts - 1) // experts,
            gradients=2 * self.all_parameters * WEIGHT * (data - 1) // data,
            model=2 * reduced * (split - 1) // split,
        )

    def hops(self) -> Hops:
        """Hops of the rings that its traffic takes."""
        layout, split = self.division.layout, self.division.model_devices
        model, layers = self.training.model, len(self.students)
        passed = self.training.batch_tokens / self.division.model_copies
        passes = math.ceil(passed / model.pass_tokens)
        return Hops(
            rows=len(model.sites) * (self.division.group // split - 1),
            experts=3 * layers * (layout.experts - 1),
            gradients=2 * layers * (layout.data - 1),
            model=2 * 2 * model.blocks_run * passes * (split - 1),
        )


def divisions(training: Training, devices: int) -> Iterator[Division]:
    """Every way to divide a training over devices: whole numbers, powers of two for the model.

    Args:
        training: the training.
        devices: how many.
    """
    for experts in _divisors(devices):
        for students in _divisors(devices // experts):
            if students > len(training.students) or not _can_shard(training, experts):
                continue
            layout = Layout(data=devices // experts // students, students=students, experts=experts)
            if layout.data > training.batch_tokens:
                continue
            split = 1
            while split <= layout.students * layout.experts:
                if (layout.students * layout.experts) % split == 0:
                    yield Division(layout, split)
                split *= 2


def divisions_of(training: Training, layout: Layout) -> Iterator[Division]:
    """The same for a layout that is given."""
    for one in divisions(training, layout.world_size):
        if one.layout == layout:
            yield one


def _can_shard(training: Training, experts: int) -> bool:
    return experts == 1 or all(s.shape.units >= experts for s in training.students)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


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
