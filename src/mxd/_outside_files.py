"""Open files that others may have made: plain ones only, of a bounded size, without waiting."""

import os
import stat
from pathlib import Path
from typing import IO

from mxd.errors import UserError

_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_OPEN |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class MissingFileError(UserError):
    """There is no such file."""


def open_plain(path: Path) -> IO[bytes]:
    """Open a plain file for reading; a pipe or device, which could block for ever, is refused.

    Raises:
        MissingFileError: nothing is there.
        UserError: no plain file, or one that cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before: to open a device may do something
            raise _not_plain(path)
        handle = os.open(path, _OPEN)
        if not stat.S_ISREG(os.fstat(handle).st_mode):  # it may have been exchanged in between
            os.close(handle)
            raise _not_plain(path)
        return os.fdopen(handle, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"cannot read {path}: nothing is there; check the path") from None
    except OSError as error:
        raise cannot_read(path, error) from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"got {str(path)!r}, which is no name of a file ({error})") from None


def read_plain(path: Path, most_bytes: int) -> bytes:
    """The content of a plain file; more than it may have is never read.

    Raises:
        MissingFileError: nothing is there.
        UserError: no plain file, too large, or one that cannot be read.
    """
    with open_plain(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = file.read(most_bytes + 1) if size <= most_bytes else b""
        except OSError as error:
            raise cannot_read(path, error) from None
    if max(size, len(content)) > most_bytes:
        raise UserError(
            f"{path} has {max(size, len(content))} bytes, expected at most {most_bytes}; it is "
            "none that mxd wrote"
        )
    return content


def is_folder(path: Path) -> bool:
    """Whether a folder is there; a name that no file can have is that of none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_there(path: Path) -> bool:
    """Whether anything of this name is there."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_inside(path: Path) -> None:
    """Refuse a link that leads out of the folder it lies in; the hub's own cache is made of links.

    There, `REPOSITORY/snapshots/REVISION/…/FILE` leads to `REPOSITORY/blobs/HASH`.

    Raises:
        UserError: it leads elsewhere.
    """
    try:
        if not path.is_symlink():
            return
        target = path.resolve()
        above = path.parent.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise UserError(f"{path} is a link that leads nowhere ({error})") from None
    homes = [above, *(p.parent / "blobs" for p in above.parents if p.name == "snapshots")]
    if not any(home in target.parents for home in homes):
        raise UserError(
            f"{path} is a link out of its folder, expected the file itself; put a copy there"
        )


def check_below(path: Path, root: Path) -> None:
    """Refuse a path that leaves a folder by a link in any of its parts.

    Args:
        path: made of the folder's own path and names below it.
        root: the folder, which may be a link itself.

    Raises:
        UserError: it leads elsewhere.
    """
    try:
        inside = root.resolve() in path.resolve().parents
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise UserError(f"{path} is a link that leads nowhere ({error})") from None
    if not inside:
        raise UserError(f"{path} leads out of {root} by a link, expected none; put a copy there")


def cannot_read(path: Path, error: OSError) -> UserError:
    """The error for a file that the system does not give."""
    return UserError(
        f"cannot read {path}: {error.strerror or error}; mend this, or give another file"
    )


def _not_plain(path: Path) -> UserError:
    return UserError(
        f"cannot read {path}: it is a folder, a pipe or a device, expected a plain file; give one"
    )
