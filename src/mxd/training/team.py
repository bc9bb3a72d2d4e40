"""The processes that train a run together; here, the one that is alone with it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mxd.data import Harvest
from mxd.errors import UserError
from mxd.layers import Layer
from mxd.training.alike import check_alike
from mxd.training.companions import ALONE, Companions
from mxd.training.recipe import Recipe
from mxd.training.turns import Turns


class Wishes(NamedTuple):
    """What a process would like to happen after a step."""

    asked: int = 0
    """The signal that asked it to stop; 0 where none did."""
    late: bool = False
    """Whether it is time for a checkpoint."""


class Agreed(NamedTuple):
    """What all processes know of a step."""

    rows: int
    """Tokens of the step, over all processes; 0 when all texts have ended."""
    asked: int
    """The signal that asked any of them to stop; 0 where none did."""
    late: bool
    """Whether it is time for a checkpoint on any of them."""


class Team:
    """A process that is alone: all is its own, and there is nobody to agree with.

    Several processes have `mxd.training.distributed.Processes`, which every one of them has to call
    alike.
    """

    rank = 0
    """This process's number."""
    size = 1
    """How many there are."""

    @property
    def speaks(self) -> bool:
        """Whether this is the process that writes what there is once in a run."""
        return self.rank == 0

    def told(self, say: Callable[[], str]) -> str:
        """What the first process says; it alone is asked, and the others wait for it.

        Raises:
            UserError: what `say` raises, on all of them.
        """
        return say()

    def agree(self, rows: int, wishes: Wishes) -> Agreed:
        """Tell the others how many rows this process has for a step, and what it wishes."""
        return Agreed(rows, wishes.asked, wishes.late)

    def all(self, flag: bool) -> bool:
        """Whether it holds on all processes."""
        return flag

    def listed(self, own: list[Any]) -> list[Any]:
        """The entries of all processes, plain data, in the order of the processes."""
        return own

    def stacked(self, own: Tensor) -> Tensor:
        """The rows of all processes, in their order; they may hold different numbers of them."""
        return own

    def total(self, own: Tensor) -> Tensor:
        """The sum over all processes."""
        return own

    def shared(self, own: Tensor) -> Tensor:
        """The rows of the processes that see the same part of a batch, in their order."""
        return own

    def meet(self, rows: int) -> int:
        """Settle who has how many rows of what is `shared` next; how many the most have."""
        return rows

    def shards(self, count: int) -> Sequence[int]:
        """The text shards that this process reads."""
        return range(count)

    def trains(self, student: int) -> bool:
        """Whether this process trains the student of that number."""
        return True

    def check_students(self, count: int) -> None:
        """Refuse fewer students than there are to be groups of them.

        Raises:
            UserError: there are fewer.
        """

    def check_layer(self, layer: Layer) -> None:
        """Refuse a layer that cannot be shared; it may be on the meta device.

        Raises:
            UserError: it cannot.
        """

    def check_equal(self, layer: Layer, companions: Companions) -> None:
        """Make sure that all processes hold the same numbers of what they all hold of a layer.

        Raises:
            UserError: on all of those that train it; it names what differs, and where.
        """

    def take_part(self, layer: Layer) -> Companions:
        """Keep this process's part of a layer that was built whole, and say who has the rest."""
        return ALONE

    def whole(self, layer: Layer, companions: Companions) -> Layer | None:
        """The whole of a trained layer where this process is to store it, else None."""
        return layer

    def turns(self, harvest: Harvest) -> Turns:
        """Share the passes of a model that lies in parts on all processes.

        Raises:
            UserError: there is one process alone.
        """
        raise UserError(
            "got a model in parts on several processes for a run on one, expected a whole model"
        )

    def check(self, recipe: Any) -> None:
        """Refuse, before any work, what this team cannot do.

        Raises:
            UserError: there is such a thing.
        """


def open_team(layout: str | None) -> Team:
    """The processes of this run: those of torch.distributed where it is set up, else this one.

    Args:
        layout: such as `data=2,experts=2`; None makes all processes data parallel.

    Raises:
        UserError: a layout that does not fit the number of processes.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from mxd.training.distributed import Groups, Layout, Processes, listed

        size = torch.distributed.get_world_size()
        parsed = Layout.parse(layout, size)
        check_alike({"layout": str(parsed)}, partial(listed, group=torch.distributed.group.WORLD))
        if size > 1:
            return Processes(Groups.of(parsed, _device_type()))
    elif layout is not None:
        from mxd.training.distributed import Layout

        Layout.parse(layout, 1)
    return Team()


def check_layout(layout: str | None, processes: int, recipe: Recipe) -> None:
    """Refuse what so many processes cannot train, before there is a model or they have met.

    Args:
        layout: as of `open_team`.
        processes: how many there are to be.
        recipe: what is to be trained.

    Raises:
        UserError: there is such a thing.
    """
    if layout is None and processes == 1:
        return
    from mxd.training.distributed import Layout

    Layout.parse(layout, processes).check(recipe)
    if recipe.text_shards is None and recipe.activations is None:
        replace(recipe, text_shards=processes)


def _device_type() -> str:
    return "cuda" if "nccl" in torch.distributed.get_backend_config() else "cpu"
