"""Files that are there as a whole or not at all, also after the machine went down."""

import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from mxd.errors import CannotWriteError

_READ_BYTES = 1 << 20
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What file systems say that cannot bring a folder, or a device, to the disk."""
_REMEDY = "make room, or choose a place that can be written, then give the same command again"


def passing_name(name: str) -> str:
    """What a file is called until it is whole."""
    return f".{name}.new"


def replace_durably(path: Path, save: Callable[[Path], object], *, remedy: str = _REMEDY) -> None:
    """Write a file under a passing name, bring it to the disk, and only then give it its name.

    The passing name is always the same, so what a crash leaves is overwritten by the next attempt;
    two writers of one file at the same time are up to the caller to prevent.

    Args:
        path: the file; its folder is made where it is not there.
        save: writes the content to the path that it is given.
        remedy: what the user can do when it fails.

    Raises:
        CannotWriteError: it cannot be written, for example because the disk is full. Nothing is
            left of it, and what had the name before still has it.
    """
    _replace(path, save, remedy, sync=True)


def replace_whole(path: Path, save: Callable[[Path], object], *, remedy: str = _REMEDY) -> None:
    """As `replace_durably`, without waiting for the disk: for what can soon be made again.

    Raises:
        CannotWriteError: as there.
    """
    _replace(path, save, remedy, sync=False)


def replace_text(path: Path, text: str, *, remedy: str = _REMEDY) -> None:
    """Write a text file as a whole, in UTF-8 and with the ends of lines that the text has.

    Raises:
        CannotWriteError: as of `replace_durably`.
    """
    replace_durably(path, lambda place: place.write_bytes(text.encode("utf-8")), remedy=remedy)


def cannot_write(path: Path, error: Exception, remedy: str = _REMEDY) -> CannotWriteError:
    """The error for what cannot be written, in one sentence.

    Args:
        path: the file or folder.
        error: what the system said.
        remedy: what the user can do.
    """
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return CannotWriteError(f"{path} cannot be written ({reason}); {remedy}")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can do that.

    Raises:
        OSError: the disk failed.
    """
    if os.name == "nt":  # Windows opens no folder as a file
        return
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _replace(path: Path, save: Callable[[Path], object], remedy: str, *, sync: bool) -> None:
    temporary = path.with_name(passing_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # nothing is written through a link of this name
        save(temporary)
        temporary.chmod(0o644)
        if sync:
            sync_file(temporary)
        temporary.replace(path)
        if sync:
            sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error, remedy) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk.

    Raises:
        OSError: the disk failed.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
