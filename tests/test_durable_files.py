"""The one way in which files are written: as a whole, or not at all."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.helpers.disks import largest_file, not_allowed, onto_a_full_disk

from mxd import _durable_files
from mxd._durable_files import (
    passing_name,
    replace_durably,
    replace_text,
    replace_whole,
    sha256_of,
    sync_folder,
)
from mxd.errors import CannotWriteError, UserError

WRITERS = [replace_durably, replace_whole]


@pytest.fixture(params=WRITERS, ids=lambda writer: writer.__name__)
def write(request: pytest.FixtureRequest) -> Callable[..., None]:
    return request.param


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A file with an earlier content."""
    path = tmp_path / "x.json"
    path.write_bytes(b"before")
    return path


def failing(number: int) -> Callable[[Path], object]:
    def save(place: Path) -> None:
        place.write_bytes(b"half of the new con")
        raise OSError(number, os.strerror(number), str(place))

    return save


def test_file_is_replaced_and_nothing_else_is_left(write, held: Path) -> None:
    (held.parent / passing_name("x.json")).write_text("of a process that was killed")
    write(held, lambda place: place.write_bytes(b"after"))
    assert held.read_bytes() == b"after"
    assert list(held.parent.iterdir()) == [held]
    assert stat.S_IMODE(held.stat().st_mode) == 0o644


def test_folders_above_are_made(write, tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c", lambda place: place.write_bytes(b"x"))
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x"


def test_text_is_utf8_and_keeps_its_ends_of_lines(tmp_path: Path) -> None:
    replace_text(tmp_path / "x", "é\r\nü\n")
    assert (tmp_path / "x").read_bytes() == b"\xc3\xa9\r\n\xc3\xbc\n"


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO", "EFBIG"])
def test_failure_leaves_the_earlier_content_and_says_why(write, held: Path, name: str) -> None:
    number = getattr(errno, name)
    with pytest.raises(CannotWriteError) as caught:
        write(held, failing(number), remedy="do this")
    assert str(caught.value) == f"{held} cannot be written ({os.strerror(number)}); do this"
    assert isinstance(caught.value, UserError)
    assert held.read_bytes() == b"before"
    assert list(held.parent.iterdir()) == [held]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_other_errors_pass_and_leave_nothing(write, held: Path, error: type) -> None:
    def save(place: Path) -> None:
        place.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        write(held, save)
    assert held.read_bytes() == b"before"
    assert list(held.parent.iterdir()) == [held]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_refused(write, held: Path) -> None:
    with pytest.raises(CannotWriteError, match="No space left on device"):
        write(held, onto_a_full_disk)
    assert held.read_bytes() == b"before"
    assert list(held.parent.iterdir()) == [held]


def test_tensors_that_are_cut_short_never_get_the_name(write, held: Path) -> None:
    tensors = {"a": torch.zeros(4096)}
    with largest_file(4096), pytest.raises(CannotWriteError, match=r"cannot be written \(.+\)"):
        write(held, lambda place: save_file(tensors, place))
    assert held.read_bytes() == b"before"
    assert list(held.parent.iterdir()) == [held]


def test_folder_without_permission_is_refused(write, tmp_path: Path) -> None:
    with not_allowed(tmp_path), pytest.raises(CannotWriteError, match="Permission denied"):
        write(tmp_path / "x", lambda place: place.write_bytes(b"x"))
    assert list(tmp_path.iterdir()) == []


def test_folder_and_file_in_the_way_are_refused(write, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("dear")
    for path in (tmp_path / "folder", tmp_path / "file" / "x", tmp_path / ("x" * 300)):
        with pytest.raises(CannotWriteError, match="cannot be written"):
            write(path, lambda place: place.write_bytes(b"x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_nothing_is_written_through_a_link(write, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("dear")
    (tmp_path / passing_name("x")).symlink_to(tmp_path / "victim")
    (tmp_path / "x").symlink_to(tmp_path / "victim")
    write(tmp_path / "x", lambda place: place.write_bytes(b"x"))
    assert (tmp_path / "victim").read_text() == "dear"
    assert not (tmp_path / "x").is_symlink()


def test_content_is_on_the_disk_before_the_name_and_the_name_after(held: Path, monkeypatch) -> None:
    done = []
    fsync, replace = os.fsync, Path.replace

    def noting(handle: int) -> None:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        done.append("folder" if folder else "content")
        fsync(handle)

    def renaming(path: Path, target: Path) -> Path:
        done.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(Path, "replace", renaming)
    replace_durably(held, lambda place: place.write_bytes(b"after"))
    assert done == ["content", "name", "folder"]


def test_disk_that_fails_when_it_is_to_keep_the_content_is_refused(held: Path, monkeypatch) -> None:
    def failing_disk(_handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing_disk)
    with pytest.raises(CannotWriteError, match="Input/output error"):
        replace_durably(held, lambda place: place.write_bytes(b"after"))
    assert held.read_bytes() == b"before"
    assert list(held.parent.iterdir()) == [held]


@pytest.mark.parametrize(("name", "passes"), [("EINVAL", True), ("ENOTSUP", True), ("EIO", False)])
def test_folders_are_synced_where_they_can_be(tmp_path, monkeypatch, name, passes) -> None:
    def answering(_handle: int) -> None:
        raise OSError(getattr(errno, name), name)

    monkeypatch.setattr(_durable_files.os, "fsync", answering)
    if passes:
        sync_folder(tmp_path)
    else:
        with pytest.raises(OSError, match="EIO"):
            sync_folder(tmp_path)


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "x") == known
