"""Files from outside: whatever is in a file's place, it is read or refused, and nothing waits."""

import os
from pathlib import Path

import pytest

from mxd._outside_files import (
    MissingFileError,
    check_below,
    check_inside,
    is_folder,
    is_there,
    open_plain,
    read_plain,
)
from mxd.errors import UserError


def test_plain_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert read_plain(path, 3) == b"abc"


def test_larger_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcd")
    with pytest.raises(UserError, match="has 4 bytes, expected at most 3"):
        read_plain(path, 3)


def test_missing_file_has_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file" / "below"):
        with pytest.raises(MissingFileError, match="nothing is there"):
            open_plain(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link to a pipe"])
def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    with pytest.raises(UserError, match="expected a plain file"):
        read_plain(path, 10)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "loop"])
def test_names_that_no_file_has_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"no name of a file|cannot read"):
        open_plain(tmp_path / name)
    assert not is_folder(tmp_path / name)
    assert not is_there(tmp_path / name)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "own").write_text("{}")
    links = {"out": "../secret", "absolute": str(tmp_path / "secret"), "loop": "loop"}
    for name, target in {**links, "in": "own"}.items():
        (folder / name).symlink_to(target)
    for name in links:
        with pytest.raises(UserError, match="is a link"):
            check_inside(folder / name)
    check_inside(folder / "in")
    check_inside(folder / "own")


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123" / "layers" / "site"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "hash").write_text("{}")
    (snapshot / "config.json").symlink_to("../../../../blobs/hash")
    check_inside(snapshot / "config.json")
    (tmp_path / "other").write_text("{}")
    (snapshot / "out.json").symlink_to("../../../../../other")
    with pytest.raises(UserError, match="link out of its folder"):
        check_inside(snapshot / "out.json")


def test_links_in_any_part_of_a_path_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "b").mkdir(parents=True)
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "out").symlink_to("../elsewhere")
    (root / "in").symlink_to("a")
    (root / "loop").symlink_to("loop")
    (tmp_path / "named").symlink_to("root")
    for base in (root, tmp_path / "named"):
        for name in ("a/b", "in/b", "none/at/all"):
            check_below(base / name, base)
        for name in ("out", "out/b", "../elsewhere", "."):
            with pytest.raises(UserError, match="leads out"):
                check_below(base / name, base)


def test_long_messages_lose_their_middle() -> None:
    said = str(UserError("start " + "x" * 10_000_000 + " end"))
    assert said.startswith("start x")
    assert said.endswith("x end")
    assert len(said) < 5000
