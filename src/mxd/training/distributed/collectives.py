"""Rows that travel between ranks that hold different numbers of them, with their gradients.

A `group` of None is a process alone, for which all of these do nothing.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mxd.training.distributed.split import Split
from mxd.training.distributed.traffic import received

Group = dist.ProcessGroup | None


def agreed_split(own_count: int, group: Group) -> Split:
    """What all ranks hold when this one holds `own_count` rows; they exchange one number each."""
    if group is None:
        return Split((own_count,), 0)
    ranks = dist.get_world_size(group)
    counts = torch.empty(ranks, dtype=torch.int64)
    gather_equal(counts, torch.tensor([own_count]), group)
    received("agree", (ranks - 1) * counts.element_size())
    return Split(tuple(counts.tolist()), dist.get_rank(group))


def gather_equal(into: Tensor, own: Tensor, group: dist.ProcessGroup) -> None:
    """All ranks' tensors of one shape, one after the other; torch has changed the name of it."""
    name = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
    getattr(dist, name)(into, own, group=group)


def gather_rows(
    rows: Shaped[Tensor, "own *row"], split: Split, group: Group
) -> Shaped[Tensor, "total *row"]:
    """The rows of all ranks, in the ranks' order; a gradient goes back to the rank it is due to.

    Args:
        rows: this rank's, `split.own_count` of them.
        split: how many each rank holds.
        group: the ranks.
    """
    gathered: Tensor = _GatherRows.apply(rows, split, group)
    return gathered


def sum_rows(
    partial: Float[Tensor, "total *row"], split: Split, group: Group
) -> Float[Tensor, "own *row"]:
    """Each rank's own rows of the sum of what all ranks hold of them, summed in the ranks' order.

    Args:
        partial: this rank's part of all rows, `split.total` of them.
        split: which rows are whose.
        group: the ranks.
    """
    summed: Tensor = _SumRows.apply(partial, split, group)
    return summed


class _GatherRows(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, split: Split, group: Group) -> Tensor:
        ctx.split, ctx.group = split, group
        return _gathered(rows, split, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return to_owners(grads[0], ctx.split, ctx.group).sum(0), None, None


class _SumRows(Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, split: Split, group: Group) -> Tensor:
        ctx.split, ctx.group = split, group
        return to_owners(partial, split, group).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _gathered(grads[0], ctx.split, ctx.group), None, None


def _gathered(rows: Tensor, split: Split, group: Group) -> Tensor:
    most = max(split.counts)
    if group is None or not most:
        return rows.clone()
    padded = rows.contiguous()
    if len(rows) < most:
        padded = torch.cat([rows, rows.new_zeros((most - len(rows), *rows.shape[1:]))])
    gathered = rows.new_empty((split.ranks * most, *rows.shape[1:]))
    gather_equal(gathered, padded, group)
    received("gather", (split.ranks - 1) * padded.numel() * padded.element_size())
    if min(split.counts) == most:
        return gathered
    parts = zip(gathered.split(most), split.counts, strict=True)
    return torch.cat([part[:count] for part, count in parts])


def to_owners(
    rows: Shaped[Tensor, "total *row"], split: Split, group: Group
) -> Shaped[Tensor, "ranks own *row"]:
    """Send every row to the rank that owns it: what each rank has for this one's rows."""
    own = split.own_count
    if group is None:
        return rows.unsqueeze(0)
    parts = rows.new_empty((split.ranks, own, *rows.shape[1:]))
    sizes = [own] * split.ranks
    _swap(parts.flatten(0, 1), rows.contiguous(), sizes, [*split.counts], split, group)
    return parts


def from_owners(
    parts: Shaped[Tensor, "ranks own *row"], split: Split, group: Group
) -> Shaped[Tensor, "total *row"]:
    """The way back: `parts[r]` goes to rank r, which gets all rows, each from its owner."""
    if group is None:
        return parts[0]
    rows = parts.new_empty((split.total, *parts.shape[2:]))
    sizes = [split.own_count] * split.ranks
    _swap(rows, parts.flatten(0, 1).contiguous(), [*split.counts], sizes, split, group)
    return rows


def _swap(
    into: Tensor, rows: Tensor, into_sizes: list[int], sizes: list[int], split: Split, group: Group
) -> None:
    columns = math.prod(rows.shape[1:])
    if not split.total or not columns:  # on all ranks alike
        return
    dist.all_to_all_single(into, rows, into_sizes, sizes, group=group)
    foreign = sum(into_sizes) - into_sizes[split.rank]
    received("swap", foreign * columns * into.element_size())
