"""Files that are there as a whole or not at all, also after the machine went down."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from mxd.errors import UserError

_READ_BYTES = 1 << 20


def passing_name(name: str) -> str:
    """What a file is called until it is whole."""
    return f".{name}.new"


def replace_durably(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file under a passing name, bring it to the disk, and only then give it its name.

    Args:
        path: the file.
        save: writes the content to the path that it is given.

    Raises:
        UserError: it cannot be written, for example because the disk is full; nothing is left.
    """
    temporary = path.with_name(passing_name(path.name))
    try:
        temporary.unlink(missing_ok=True)  # nothing is written through a link of this name
        save(temporary)
        temporary.chmod(0o644)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{path} cannot be written ({reason}); the shards finished before it stay good: make "
            "room on the disk, then give the same command again to go on after them"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
