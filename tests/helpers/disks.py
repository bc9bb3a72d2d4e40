"""Disks that are full, and folders that cannot be written to, also where tests run as root."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses what would make a file larger than so many bytes, in mid-write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def not_allowed(folder: Path) -> Iterator[None]:
    """The system lets this process change nothing in a folder."""
    mode, user = folder.stat().st_mode, os.geteuid()
    folder.chmod(0o555)
    if user == 0:  # whom no mode stops
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)
        folder.chmod(mode)


def onto_a_full_disk(place: Path) -> None:
    """Write some bytes; the system says that there is no room for them."""
    place.symlink_to("/dev/full")
    place.write_bytes(b"some bytes")
