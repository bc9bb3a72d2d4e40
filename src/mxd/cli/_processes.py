"""`mxd fit` under torchrun: several processes that train one run, of which the first speaks."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from mxd.errors import ToldError, UserError
from mxd.training import Interrupted, Stopped


@dataclass(frozen=True)
class Processes:
    """The processes of a command."""

    first: bool = True
    """Whether this is the one that speaks and writes."""
    count: int = 1
    """How many there are."""
    told: Callable[[Callable[[], str]], str] = lambda say: say()
    """What the first process says; the others wait for it."""


def is_first() -> bool:
    """Whether this process is the one that says what concerns all."""
    return os.environ.get("RANK", "0") == "0"


def several() -> bool:
    """Whether torchrun started this process beside others."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


def only_one(verb: str) -> None:
    """Refuse several processes where a verb has no use for them.

    Raises:
        UserError: there are several.
    """
    if several():
        kind = UserError if is_first() else ToldError  # said once
        raise kind(
            f"got several processes for `mxd {verb}`, expected one: `mxd fit` alone divides its "
            "work; start it without torchrun"
        )


@contextmanager
def processes(device: str, timeout_minutes: float) -> Iterator[Processes]:
    """Join the other processes that torchrun started, if it did.

    Args:
        device: what --device says.
        timeout_minutes: how long they wait for one another.

    Raises:
        UserError: a device that all of them would share.
        LostProcessError: another process was lost.
        Interrupted: a signal ended this one before there was anything to keep.
    """
    if not several():
        yield Processes()
        return
    if torch.device(device).index is not None:
        raise UserError(
            f"got device {device} for several processes, expected each to have its own; give "
            f"--device {torch.device(device).type}"
        )
    import torch.distributed as dist

    from mxd.training.distributed import first_told, world

    signal.signal(signal.SIGTERM, _asked)
    with world(device, timeout_seconds=timeout_minutes * 60) as here:
        try:
            yield Processes(here.speaks, here.size, lambda say: first_told(say, dist.group.WORLD))
        except BaseException as error:
            # When one process ends torchrun asks the others to: they still have to say why.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if isinstance(error, Stopped) and not str(error):
                raise Interrupted(_why(), error.signal_number) from None
            raise


def _asked(number: int, _frame: FrameType | None) -> None:
    raise Stopped("", number)


def _why() -> str:
    """What ended this process where it has nothing of its own to say: a signal, of torchrun's."""
    from mxd.training.distributed import has_another_ended

    if has_another_ended():
        return "another process ended this run; see what it said"
    return "nothing is kept; if nobody asked torchrun to stop, see what another process said"
