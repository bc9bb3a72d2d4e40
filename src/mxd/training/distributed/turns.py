"""Whose text goes through a model that lies in parts on all processes of a run."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Int64
from torch import Tensor

from mxd.data import Harvest
from mxd.training.distributed.collectives import Group

T = TypeVar("T")


class SharedModel:
    """The processes lead one after the other, as `mxd.training.turns.Turns` has it.

    Whoever leads sends the others the tokens of each pass, and says when it is done: so a process
    may make as many passes in its turn as its buffer has room for, and the others need not know.

    Args:
        harvest: a pass of the model, which all processes have to make together.
        group: all of them.
    """

    def __init__(self, harvest: Harvest, group: Group) -> None:
        self._harvest, self._group = harvest, group
        self._rank, self._size = dist.get_rank(group), dist.get_world_size(group)

    def lead(self, ids: Int64[Tensor, "contexts length"]) -> dict[str, tuple[Tensor, Tensor]]:
        """As `Turns.lead`."""
        ids = ids.cpu().contiguous()
        self._say(torch.tensor(ids.shape), self._rank)
        self._say(ids, self._rank)
        return self._harvest(ids)

    def take(self, own: Callable[[], T]) -> T:
        """As `Turns.take`."""
        for leader in range(self._rank):
            self._help(leader)
        found = own()
        self._say(torch.zeros(2, dtype=torch.int64), self._rank)
        for leader in range(self._rank + 1, self._size):
            self._help(leader)
        return found

    def _help(self, leader: int) -> None:
        while True:
            shape = self._say(torch.zeros(2, dtype=torch.int64), leader)
            if not bool(shape.all()):
                return
            self._harvest(self._say(torch.zeros(shape.tolist(), dtype=torch.int64), leader))

    def _say(self, content: Tensor, leader: int) -> Tensor:
        """What the leader says, on all processes; it travels between hosts, over gloo."""
        dist.broadcast(content, group=self._group, group_src=leader)
        return content
