"""Safetensors from outside: a header is believed only as far as the file's size proves it."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mxd._outside_files import MissingFileError
from mxd._tensor_files import Entry, TensorFile
from mxd.errors import UserError

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
}


def write(path: Path, header: Any, data: bytes = bytes(40), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_good_file_is_read(tmp_path: Path) -> None:
    tensors = {"x": torch.randn(3, 4), "y": torch.arange(5), "z": torch.ones(0, 2).bfloat16()}
    save_file(tensors, tmp_path / "f.safetensors", {"format": "pt"})
    file = TensorFile(tmp_path / "f.safetensors")
    assert file.entries == {name: Entry(t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    for name, tensor in tensors.items():
        assert torch.equal(file.tensor(name), tensor)
    assert torch.equal(file.rows("x", 1, 3), tensors["x"][1:3])


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **fields}}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (changed("a", shape=[2, 4]), "takes 24 bytes, expected 32"),
        (changed("a", shape=[2**40, 2**40]), "takes 24 bytes, expected"),
        (changed("a", shape=[-2, -3]), "has the shape"),
        (changed("a", shape=[2.0, 3]), "has the shape"),
        (changed("a", shape=[True, 6]), "has the shape"),
        (changed("a", shape=[1] * 17), "has the shape"),
        (changed("a", shape="ab"), "has the shape"),
        (changed("a", shape=[2**62, 0]), "takes 24 bytes, expected 0"),
        (changed("a", dtype="F33"), "has the type 'F33', expected F64"),
        (changed("a", dtype=["F32"]), "has the type"),
        (changed("a", data_offsets=[24, 0]), "takes -24 bytes"),
        (changed("a", data_offsets=[0]), "expected two whole numbers"),
        (changed("a", data_offsets=[0, 2**70]), "expected two whole numbers"),
        (changed("b", data_offsets=[16, 32]), "begins at byte 16, expected 24"),
        (changed("b", data_offsets=[32, 48]), "begins at byte 32, expected 24"),
        ({"a": GOOD["a"]}, "take 24 bytes, and 40 are there"),
        (changed("a", more=1), "expected dtype, shape, data_offsets"),
        ({**GOOD, "c": []}, "is no tensor"),
        ({**GOOD, "n" * 2000: GOOD["b"]}, "is no tensor"),
        ({**GOOD, "__metadata__": {"a": 1}}, "metadata"),
        ([], "no object"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[" * 100, "deeper|Expecting"),
        (b"\xff\xff", "utf-8"),
    ],
    ids=lambda value: f"{value!r:.16}",
)
def test_header_that_does_not_hold_true_is_refused(tmp_path: Path, header: Any, said: str) -> None:
    path = write(tmp_path / "f.safetensors", header)
    with pytest.raises(UserError, match=f"damaged or truncated: expected safetensors, .*{said}"):
        TensorFile(path)


@pytest.mark.parametrize("length", [0, 1, 10**4, 2**31, 2**63, 2**64 - 1])
def test_length_beyond_the_file_is_refused(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "f.safetensors", GOOD, length=length)
    with pytest.raises(UserError, match="its header is longer than the file"):
        TensorFile(path)


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "out", GOOD)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "out")
    for name, said in (
        ("pipe", "plain file"),
        ("folder", "plain file"),
        ("folder/link", "link out"),
    ):
        with pytest.raises(UserError, match=said):
            TensorFile(tmp_path / name)
    with pytest.raises(MissingFileError):
        TensorFile(tmp_path / "none")


def test_wanted_shapes_are_checked(tmp_path: Path) -> None:
    file = TensorFile(write(tmp_path / "f.safetensors", GOOD))
    file.check({"a": (2, 3), "b": (2,)}, says="config.json")
    file.check({"a": (2, 3)}, says="config.json", only=False)
    for wanted, said in (
        ({"a": (2, 3)}, r"unexpected \['b'\]"),
        ({"a": (2, 3), "b": (2,), "c": ()}, r"missing tensors \['c'\]"),
        ({"a": (3, 2), "b": (2,)}, r"a has shape \(2, 3\), expected \(3, 2\)"),
    ):
        with pytest.raises(UserError, match=said):
            file.check(wanted, says="config.json")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(content=st.binary(max_size=200))
def test_any_bytes_behind_a_good_start_are_refused_or_read(tmp_path: Path, content: bytes) -> None:
    good = write(tmp_path / "good", GOOD).read_bytes()
    path = tmp_path / "f.safetensors"
    for spoiled in (content, good[: len(good) // 2] + content, good[:8] + content + good[8:]):
        path.write_bytes(spoiled)
        try:
            TensorFile(path)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017
