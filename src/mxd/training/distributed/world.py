"""Joining the other processes of a run under torchrun, and leaving them without hanging."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from mxd.errors import UserError
from mxd.training.distributed.lost import lost_processes_named

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 3600.0
"""How long a process waits for the others before it takes them for lost: longer than a source of
text may take to answer again (`mxd.data.RetryOptions`), while the others wait."""
_ENDED = "mxd/ended"
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process."""


@dataclass(frozen=True)
class World:
    """This process among all those of a run."""

    rank: int
    """Its number, from 0."""
    size: int
    """How many there are."""
    device: torch.device
    """The device that it computes on."""

    @property
    def speaks(self) -> bool:
        """Whether it is the one that prints and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1


def under_torchrun() -> bool:
    """Whether torchrun (or what sets the same variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def world(
    device: str | torch.device = "cpu", *, timeout_seconds: int | float = TIMEOUT_SECONDS
) -> Iterator[World]:
    """Join the run that torchrun started this process for, and leave it at the end.

    Without torchrun the process is alone and nothing of torch.distributed is set up. On GPUs,
    tensors travel over NCCL and what the processes agree on over gloo, so that a lost process is
    noticed by the host too. Ranks above 0 log nothing below a warning. After an error nobody is
    waited for: connections are closed, which ends the other processes too.

    Args:
        device: `cpu`, or `cuda`: each process then has the GPU of its local rank.
        timeout_seconds: how long to wait for the others before they count as lost.

    Raises:
        UserError: variables that are missing or no numbers, or no such GPU.
        LostProcessError: another process was lost, within the context or on leaving it.
    """
    wanted = torch.device(device)
    if not under_torchrun():
        yield World(0, 1, wanted)
        return
    rank, size, local_rank = _variables()
    with lost_processes_named(), _quiet(rank):
        place = _own_device(wanted, local_rank)
        _join(place, timeout_seconds)
        try:
            yield World(rank, size, place)
            dist.barrier(device_ids=[place.index] if place.type == "cuda" else None)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):  # torchrun asks all to stop
                _note_the_end(rank)
            _leave(failed=True)
            raise
        _leave(failed=False)


def _variables() -> tuple[int, int, int]:
    values = {name: os.environ.get(name, "") for name in _VARIABLES}
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise UserError(
            f"got RANK and WORLD_SIZE without {', '.join(missing)}, expected all that torchrun "
            "sets; start the command with torchrun, or take these out of the environment"
        )
    numbers = [values[name] for name in _VARIABLES if name != "MASTER_ADDR"]
    if not all(n.isascii() and n.isdigit() for n in numbers) or int(numbers[0]) >= int(numbers[1]):
        found = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise UserError(
            f"got {found}, expected the numbers that torchrun sets; start the command with torchrun"
        )
    return int(values["RANK"]), int(values["WORLD_SIZE"]), int(values["LOCAL_RANK"])


def _own_device(wanted: torch.device, local_rank: int) -> torch.device:
    if wanted.type != "cuda":
        return wanted
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"got local rank {local_rank} with {torch.cuda.device_count()} GPUs, expected one GPU "
            "for each process; lower torchrun's --nproc-per-node"
        )
    place = torch.device("cuda", local_rank)
    torch.cuda.set_device(place)
    return place


def group_timeout() -> timedelta | None:
    """How long a group's members wait for one another: as long as the run's processes do.

    torch gives new groups a default of its own. None where somebody else has joined the processes.
    """
    return _joined[-1] if _joined else None


_joined: list[timedelta] = []


def _join(place: torch.device, timeout_seconds: float) -> None:
    on_gpu = place.type == "cuda"
    # Without a device_id: with one, torch makes the mesh's groups by splitting NCCL's communicator,
    # and those have no gloo to agree over.
    timeout = timedelta(seconds=timeout_seconds)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timeout)
    _joined[:] = [timeout]


def _note_the_end(rank: int) -> None:
    """Leave word with what started the processes that this one ended because of an error."""
    with suppress(Exception):
        dist.distributed_c10d._get_default_store().set(_ENDED, str(rank))


def has_another_ended() -> bool:
    """Whether another process has ended because of an error, as far as it could leave word."""
    with suppress(Exception):
        found: bool = dist.distributed_c10d._get_default_store().check([_ENDED])
        return found
    return False


def _leave(*, failed: bool) -> None:
    """Give up the connections; after an error without a word about what goes wrong on the way."""
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
    if failed and abort is not None and "nccl" in dist.get_backend_config():
        with suppress(Exception):  # NCCL would wait for what it has begun
            abort()
    with suppress(Exception):
        dist.destroy_process_group()


@contextmanager
def _quiet(rank: int) -> Iterator[None]:
    """Rank 0 alone speaks; warnings of any rank are heard."""
    library = logging.getLogger("mxd")
    before = library.level
    if rank:
        library.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        library.setLevel(before)
