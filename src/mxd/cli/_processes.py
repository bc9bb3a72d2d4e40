"""`mxd fit` under torchrun: several processes that train one run, of which the first speaks."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from mxd.errors import UserError
from mxd.training import Interrupted


@dataclass(frozen=True)
class Processes:
    """The processes of a command."""

    first: bool = True
    """Whether this is the one that speaks and writes."""
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
        raise UserError(
            f"got several processes for `mxd {verb}`, expected one: `mxd fit` alone divides its "
            "work; start it without torchrun"
        )


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the other processes that torchrun started, if it did.

    Args:
        device: what --device says.

    Raises:
        UserError: a device that all of them would share.
        LostProcessError: another process was lost.
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
    with world(device) as here:
        try:
            yield Processes(here.speaks, lambda say: first_told(say, dist.group.WORLD))
        except BaseException:
            # When one process ends torchrun asks the others to: they still have to say why.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise


def _asked(number: int, _frame: FrameType | None) -> None:
    raise Interrupted("nothing is kept", number)
