"""Passes of a model that lies in parts on several processes: one leads, and all the others help."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from mxd.data import ActivationBatch, ActivationStream, ShardedStream, SiteActivations

T = TypeVar("T")


@runtime_checkable
class Turns(Protocol):
    """Who leads; every process has to call `take` as often as every other."""

    def lead(self, ids: Int64[Tensor, "contexts length"]) -> dict[str, tuple[Tensor, Tensor]]:
        """Make a pass that the others help with; within this process's turn alone."""
        ...

    def take(self, own: Callable[[], T]) -> T:
        """What `own` gives in this process's turn; in those of the others it helps."""
        ...


class TurnTakingStream(ShardedStream):
    """The streams of some text shards, whose passes of the model need all processes.

    Every process has to ask for the same, whether or not it has shards itself.

    Args:
        shards: streams by the number of their shard, which harvest with `turns.lead`.
        turns: whose turn it is.
    """

    def __init__(self, shards: Mapping[int, ActivationStream], turns: Turns) -> None:
        super().__init__(shards)
        self._turns = turns

    def next_batch(self) -> ActivationBatch | None:
        """As `ShardedStream.next_batch`."""
        return self._turns.take(super().next_batch)

    def first_buffers(self) -> list[SiteActivations]:
        """As `ShardedStream.first_buffers`."""
        return self._turns.take(super().first_buffers)
