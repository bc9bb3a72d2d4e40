"""One process at a time at work in a folder."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mxd.errors import UserError

if sys.platform != "win32":
    import fcntl


@contextmanager
def held_folder(folder: Path, *, work: str) -> Iterator[None]:
    """Make a folder and keep others out of it; it goes again if nothing came into it.

    The folder itself is locked, so that no file is left behind, whatever ends the process. Where
    the system or the file system knows no such locks, nothing is kept out.

    Args:
        folder: where the work is to be done.
        work: what is done there, for messages: "harvest", "training".

    Raises:
        UserError: another process is at work there, or the folder cannot be made.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output folder {folder} cannot be made ({error.strerror}), expected one that can; "
            "choose another"
        ) from None
    handle = None
    try:
        handle = _locked(folder, work)
        yield
    finally:
        if made:
            with suppress(OSError):  # it holds something
                folder.rmdir()
        if handle is not None:
            os.close(handle)


def _locked(folder: Path, work: str) -> int | None:
    if sys.platform == "win32":
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before may have taken the folder away since it was opened.
        busy = not folder.exists() or not os.path.samestat(os.fstat(handle), folder.stat())
    except OSError as error:
        busy = error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    if busy:
        os.close(handle)
        raise UserError(
            f"another {work} is writing to {folder}, expected one at a time; wait for its end, or "
            "choose another folder"
        )
    return handle
