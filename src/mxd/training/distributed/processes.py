"""A run on several processes, from the point of view of one of them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mxd.data import Harvest
from mxd.errors import ToldError, UserError
from mxd.layers import Layer, SparseLayer
from mxd.training.companions import ALONE, Companions
from mxd.training.distributed.agreement import all_ranks, check_equal, total
from mxd.training.distributed.collectives import Group, agreed_split, gather_rows
from mxd.training.distributed.companions import Replicas
from mxd.training.distributed.experts import ExpertParallel
from mxd.training.distributed.groups import Groups
from mxd.training.distributed.shard_layer import gather_layer, shard_layer, unit_parameters
from mxd.training.distributed.split import Split, split_units
from mxd.training.distributed.turns import SharedModel
from mxd.training.recipe import Recipe
from mxd.training.team import Agreed, Team, Wishes
from mxd.training.turns import Turns


class Processes(Team):
    """Several processes that train one run.

    Text shards are dealt out in consecutive stretches, so that rows gathered in the processes'
    order are in the shards' order, whatever their number.

    Args:
        groups: who works with whom.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        everyone = groups.everyone
        self.rank, self.size = dist.get_rank(everyone), dist.get_world_size(everyone)
        self.batch = Split((0,), 0)
        """Who has how many rows of what this process's group sees."""
        self.rows = 0
        """Rows of the step, over all processes."""

    def told(self, say: Callable[[], str]) -> str:
        """As `Team.told`; on the other processes an error is a `ToldError`."""
        return first_told(say, self.groups.everyone)

    def agree(self, rows: int, wishes: Wishes) -> Agreed:
        """As `Team.agree`: one exchange of three numbers; the device is not waited for."""
        found = self.stacked(torch.tensor([[rows, wishes.asked, int(wishes.late)]]), even=True)
        counts, asked, late = found.T.tolist()
        self.rows = sum(counts)
        self._see(counts)
        return Agreed(self.rows, max(asked), any(late))

    def all(self, flag: bool) -> bool:
        """As `Team.all`."""
        return all_ranks(flag, self.groups.everyone)

    def listed(self, own: list[Any]) -> list[Any]:
        """As `Team.listed`."""
        return listed(own, self.groups.everyone)

    def stacked(self, own: Tensor, *, even: bool = False) -> Tensor:
        """As `Team.stacked`."""
        everyone = self.groups.everyone
        split = Split((len(own),) * self.size, self.rank)
        return gather_rows(own, split if even else agreed_split(len(own), everyone), everyone)

    def total(self, own: Tensor) -> Tensor:
        """As `Team.total`."""
        return total(own, self.groups.everyone)

    def shared(self, own: Tensor) -> Tensor:
        """As `Team.shared`."""
        return gather_rows(own, self.batch, self.groups.batch)

    def meet(self, rows: int) -> int:
        """As `Team.meet`."""
        counts = self.stacked(torch.tensor([rows]), even=True).tolist()
        self.rows = sum(counts)
        self._see(counts)
        return int(max(counts))

    def shards(self, count: int) -> Sequence[int]:
        """As `Team.shards`."""
        own = Split.even(count, self.size, self.rank).own
        return range(own.start, own.stop)

    def trains(self, student: int) -> bool:
        """As `Team.trains`."""
        return student % self.groups.layout.students == self.groups.place[1]

    def check_students(self, count: int) -> None:
        """As `Team.check_students`."""
        self.groups.layout.check_students(count)

    def check_layer(self, layer: Layer) -> None:
        """As `Team.check_layer`."""
        if isinstance(layer, SparseLayer):
            self.groups.layout.check_units(layer.config.n_units)

    def check_equal(self, layer: Layer, companions: Companions) -> None:
        """As `Team.check_equal`."""
        if not isinstance(companions, Replicas):
            return
        parallel = companions.parallel
        units = {} if parallel is None else unit_parameters(parallel.layer)
        rest = {name: p for name, p in layer.named_parameters() if name not in units}
        check_equal(rest, self.groups.replicas)
        check_equal(units, self.groups.data)

    def take_part(self, layer: Layer) -> Companions:
        """As `Team.take_part`."""
        groups = self.groups
        if groups.experts is None:
            return ALONE if groups.data is None else Replicas(self, layer, None)
        assert isinstance(layer, SparseLayer)  # `check`
        units = split_units(layer.config.n_units, groups.layout.experts, groups.place[2])
        part = ExpertParallel(shard_layer(layer, units), units, groups.experts)
        return Replicas(self, layer, part)

    def whole(self, layer: Layer, companions: Companions) -> Layer | None:
        """As `Team.whole`."""
        if not isinstance(companions, Replicas):
            return layer if self._is_first else None
        parallel = companions.parallel
        if self.groups.place[0] > 0:
            return None
        if parallel is None:
            return layer if self._is_first else None
        return gather_layer(parallel.layer, parallel.units, self.groups.experts)

    def turns(self, harvest: Harvest) -> Turns:
        """As `Team.turns`."""
        return SharedModel(harvest, self.groups.everyone)

    @property
    def _is_first(self) -> bool:
        """Whether it is the first of the processes that hold the same."""
        return self.groups.place[0] == 0 and self.groups.place[2] == 0

    def check(self, recipe: Recipe) -> None:
        """As `Team.check`."""
        self.groups.layout.check(recipe)

    def _see(self, counts: list[int]) -> None:
        """Keep the counts of those that see the same part of a batch: consecutive processes."""
        group = self.size // self.groups.layout.data
        start = self.groups.place[0] * group
        self.batch = Split(tuple(counts[start : start + group]), self.rank - start)


def listed(own: list[Any], group: Group) -> list[Any]:
    """The entries of all ranks, plain data, in the ranks' order."""
    text = torch.frombuffer(bytearray(json.dumps(own).encode()), dtype=torch.uint8)
    split = agreed_split(len(text), group)
    parts = gather_rows(text, split, group).split(list(split.counts))
    return [entry for part in parts for entry in json.loads(part.numpy().tobytes())]


def first_told(say: Callable[[], str], group: Group) -> str:
    """What the first rank says, on all ranks; it alone is asked, and the others wait for it.

    Raises:
        UserError: what `say` raises; on the other ranks a `ToldError`.
    """
    message, error = "", None
    if group is None or dist.get_rank(group) == 0:
        try:
            message = "=" + say()
        except UserError as found:
            message, error = f"!{found}", found
    text = _spread(message, group)
    if error is not None:
        raise error
    if text.startswith("!"):
        raise ToldError(text[1:])
    return text[1:]


def _spread(text: str, group: Group) -> str:
    """The first rank's text, on all ranks."""
    if group is None:
        return text
    raw = bytearray(text.encode())
    size = torch.tensor([len(raw)])
    dist.broadcast(size, group=group, group_src=0)
    first = dist.get_rank(group) == 0
    content = torch.empty(int(size), dtype=torch.uint8)
    if first and raw:
        content = torch.frombuffer(raw, dtype=torch.uint8)
    if len(content):
        dist.broadcast(content, group=group, group_src=0)
    return content.numpy().tobytes().decode()


__all__ = ["Processes", "first_told", "listed"]
