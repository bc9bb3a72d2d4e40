"""How a training can be divided over processes, and what each of them then holds and sends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from mxd.planning.shape import unit_parameters
from mxd.planning.students import StudentShape
from mxd.planning.training import Training
from mxd.planning.work import WEIGHT
from mxd.training.distributed.layout import Layout, dealt

COUNT = 4
"""Bytes of the number of a token's candidates that are kept, which goes back to each process."""


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
    def replicas(self) -> int:
        """Processes of one layer; its dense branch, skip and bias are whole on each of them."""
        return self.layout.data * self.layout.experts

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
    """Values of an expert-parallel gate's local top-k, and back how many of them are kept."""
    sums: int
    """Partial sums of an expert-parallel combine, and their gradients."""
    gradients: int
    """Gradients of units, summed over the data coordinates, with a flag for each that was active.
    """
    replicated: int
    """Gradients of dense branches, skips and biases, which all processes of a layer hold."""
    model: int
    """Sums within a language model that is split."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Hops:
    """How often bytes of a step go from one process to the next, one after the other."""

    rows: int
    """One gathering for each site."""
    experts: int
    """Candidates, sums and their gradients of each layer."""
    gradients: int
    """One sum for each layer."""
    replicated: int
    """Likewise."""
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
        return self.unit_parameters(student) + student.dense_parameters

    def units(self, student: StudentShape) -> int:
        """Units of a layer that one process holds."""
        return math.ceil(student.shape.units / self.division.layout.experts)

    def unit_parameters(self, student: StudentShape) -> int:
        """Their parameters."""
        return self.units(student) * unit_parameters(replace(student.shape, units=1))

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
        rows = self.tokens * model.row_values * self.training.buffer_element
        experts = layout.experts
        candidates = sum(self.tokens * (s.shape.k * WEIGHT + COUNT) for s in self.students)
        outputs = sum(self.tokens * s.shape.d_out * WEIGHT for s in self.students)
        units = sum(WEIGHT * self.unit_parameters(s) + self.units(s) for s in self.students)
        dense = sum(WEIGHT * s.dense_parameters for s in self.students)
        passed = self.training.batch_tokens // self.division.model_copies
        reduced = model.blocks_run * passed * model.width * model.element
        return Traffic(
            rows=rows * (sources - 1) // sources,
            candidates=candidates * (experts - 1) // experts,
            sums=2 * outputs * (experts - 1) // experts,
            gradients=_summed(units, layout.data),
            replicated=_summed(dense, self.division.replicas),
            model=2 * _summed(reduced, split),
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
            replicated=2 * layers * (self.division.replicas - 1),
            model=2 * 2 * model.blocks_run * passes * (split - 1),
        )


def _summed(size: int, ranks: int) -> int:
    """Bytes that a process sends while as many on each of a ring are summed on all of them."""
    return 2 * size * (ranks - 1) // ranks


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
