"""What a process says when another one of its run is gone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from mxd.errors import UserError

_SIGNS = (
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Socket Timeout",
)
"""What gloo's errors say when a connection ends or stays silent; they have no type of their own."""


class LostProcessError(UserError):
    """Another process of the run died, or was silent for longer than the time allowed."""


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Turn what gloo, NCCL and the store raise about a lost process into one clear sentence.

    Raises:
        LostProcessError: another process was lost.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise LostProcessError(
            "another process of this run was lost or did not answer in time; see what it said "
            "last, then give the same command with --resume"
        ) from error


def is_lost(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone."""
    text = str(error)
    if "enforce fail" in text:  # ranks that disagree about a size: a defect, and nobody is gone
        return False
    kinds = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)
    return isinstance(error, kinds) or any(sign in text for sign in _SIGNS)
