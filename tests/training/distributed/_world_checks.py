"""What each rank does in a mesh, and while another one dies, fails, is silent or hangs."""

import logging
import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
from tests.training.distributed._examples import batch, example

from mxd.errors import UserError
from mxd.training.distributed import (
    ExpertParallel,
    Groups,
    Layout,
    Split,
    World,
    agreed_split,
    all_ranks,
    gather_rows,
    has_another_ended,
    shard_layer,
    split_units,
)


def groups_of(here: World, layouts: dict[str, dict[str, list[list[int]]]]) -> None:
    """Who works with whom, by the ranks that each group brings together."""
    for text, expected in layouts.items():
        _groups_of(here, text, expected)


def _groups_of(here: World, text: str, expected: dict[str, list[list[int]]]) -> None:
    groups = Groups.of(Layout.parse(text, here.size))
    assert groups.place == tuple(expected["places"][here.rank])
    for name in ("everyone", "data", "experts", "batch", "replicas"):
        group = getattr(groups, name)
        members = next(m for m in expected.get(name, []) if here.rank in m)
        if len(members) == 1:
            assert group is None, name
            continue
        assert dist.get_process_group_ranks(group) == members, name
        # Not torch's own default, after which a lost process would be noticed far too late.
        patience = group._get_backend(torch.device("cpu")).options._timeout
        assert patience.total_seconds() == 30, name
        own = torch.tensor([[here.rank]])
        assert gather_rows(own, agreed_split(1, group), group).flatten().tolist() == members


def refuses_another_layout(here: World) -> None:
    with pytest.raises(UserError, match="of 3 processes and 2 of them"):
        Groups.of(Layout(data=3))


def speaks_alone(here: World) -> None:
    library = logging.getLogger("mxd.training.distributed")
    assert here.speaks == (here.rank == 0)
    assert library.isEnabledFor(logging.WARNING)
    if here.rank:
        assert not library.isEnabledFor(logging.INFO)


def dies(here: World, victim: int, signal_number: int) -> None:
    """One rank is killed between two collectives; the others go on as if nothing were."""
    tensor = torch.ones(1000)
    for step in range(1000):
        if here.rank == victim and step == 3:
            os.kill(os.getpid(), signal_number)
        dist.all_reduce(tensor)


def fails(here: World, victim: int) -> None:
    """One rank meets an error; the others wait for it."""
    if here.rank == victim:
        raise UserError("got a broken shard, expected text")
    for _ in range(1000):
        all_ranks(True, dist.group.WORLD)


def leaves_word(here: World) -> None:
    """One rank meets an error; the others can know of it when they are asked to end."""
    if here.rank == 1:
        raise UserError("got a broken shard, expected text")
    limit = time.monotonic() + 20
    while not has_another_ended():
        assert time.monotonic() < limit
        time.sleep(0.05)
    raise KeyboardInterrupt


def is_stopped(here: World) -> None:
    """A rank that is stopped by a signal has not ended the run for the others."""
    if here.rank == 1:
        raise KeyboardInterrupt
    time.sleep(0.5)
    assert not has_another_ended()


def is_silent(here: World, victim: int) -> None:
    """One rank does not come to the collective that the others wait in."""
    if here.rank == victim:
        time.sleep(2)
    all_ranks(True, dist.group.WORLD)


def dies_in_a_layer(here: World) -> None:
    """The last rank is killed between the forward and the backward pass of a shared layer."""
    tokens = Split.even(6, here.size, here.rank)
    whole = example("mxd", units=9, k=3)
    x, _ = batch(whole, 6)
    units = split_units(9, here.size, here.rank)
    prediction = ExpertParallel(shard_layer(whole, units), units, dist.group.WORLD)(x, tokens)
    if here.rank == here.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    prediction.sum().backward()
    all_ranks(True, dist.group.WORLD)


def hangs(here: World) -> None:
    time.sleep(1000 if here.rank else 0)
