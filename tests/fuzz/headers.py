"""Ways to spoil safetensors: every field of every entry of the header, its length, the data."""

import json
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import Edit, Mutation, edits
from tests.fuzz.values import written

_TYPES = ("F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "C64", "F8_E4M3", "F4", "Q8")


def safetensors_mutations(content: bytes, mark: Path) -> Iterator[Mutation]:
    """Every field of every tensor's entry, the metadata, the names and the length word spoiled."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def packed(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text + data

    original = json.dumps(header).encode()
    for edit in edits(header, mark):
        yield Mutation(edit.place, edit, partial(_repacked, edit, original, data))
    for place, what, value in _consistent_edits(header, len(data)):
        yield Mutation(place, what, packed(written(value)))
    for value in ({}, {"format": 1}, {"a": None}, [], "pt", {str(i): "x" for i in range(3000)}):
        yield Mutation(
            "__metadata__", f"{value!r:.20}", packed(written({**header, "__metadata__": value}))
        )
    words = (0, 1, 7, 8, length - 1, length + 1, length + 8, len(content), 2**31, 2**63, 2**64 - 1)
    for word in words:
        yield Mutation("length", str(word), struct.pack("<Q", word) + content[8:])
    for text in (b" " * 8, b"[]", b"{}", b'"x"', b"\xff\xfe", b"\0" * 8, b"{" * 20_000, b"null"):
        yield Mutation("header", f"{text[:8]!r}", packed(text))
    padded = content[8 : 8 + length] + b" " * 40
    yield Mutation("header", "padded", packed(padded))
    yield Mutation("data", "none", content[: 8 + length])
    for extra in (b"\0", b"\0" * 4096):
        yield Mutation("data", f"{len(extra)} more", content + extra)


def _repacked(edit: Edit, header: bytes, data: bytes) -> bytes:
    text = edit.applied(header)
    return struct.pack("<Q", len(text)) + text + data


def _consistent_edits(header: dict[str, Any], data: int) -> Iterator[tuple[str, str, Any]]:
    """Changes that a header survives, or nearly: types of one size, moved and shared places."""
    names = [name for name in header if name != "__metadata__"]
    for name in names:
        entry = header[name]
        (begin, end), shape = entry["data_offsets"], entry["shape"]

        def but(name: str = name, entry: Any = entry, **changes: Any) -> dict[str, Any]:
            return {**header, name: {**entry, **changes}}

        size = end - begin
        for dtype in (
            "F32",
            "F16",
            "BF16",
            "F64",
            "I64",
            "U8",
            "BOOL",
            "C64",
            "F8_E4M3",
            "F4",
            "Q8",
        ):
            yield f"{name}.dtype", dtype, but(dtype=dtype)
        for dtype, bytes_each in (("F16", 2), ("U8", 1), ("I32", 4), ("F64", 8)):
            yield f"{name}.dtype", f"{dtype} fits", but(dtype=dtype, shape=[size // bytes_each])
        for what, other in {
            "reversed": shape[::-1], "flat": [size // 4], "deeper": [*shape, 1], "none": [],
            "0": [0, *shape], "negative": [-1, *shape], "two negative": [-n for n in shape],
            "huge": [2**40, *shape], "overflow": [2**62, 4, *shape], "many": [1] * 500,
            "long": [2**64], "one more": [*shape[:-1], shape[-1] + 1] if shape else [2],
        }.items():  # fmt: skip
            yield f"{name}.shape", what, but(shape=other)
        for what, place in {
            "reversed": [end, begin], "empty": [begin, begin], "from 0": [0, end], "to the end":
            [begin, data], "beyond": [begin, data + 4096], "shifted": [begin + 4, end + 4], "far":
            [2**40, 2**40 + size], "negative": [-size, 0], "overflow": [2**64 - size, 2**64],
            "one": [begin], "three": [begin, end, end],
        }.items():  # fmt: skip
            yield f"{name}.data_offsets", what, but(data_offsets=place)
        giant = {"shape": [2**38], "dtype": "F32", "data_offsets": [begin, begin + 2**40]}
        yield f"{name}.shape", "giant", but(**giant)
        yield f"{name}.name", "more", {**header, f"{name}.more": entry}
        for other in names:
            if other != name:
                yield f"{name}.data_offsets", f"those of {other}", but(**header[other])
    yield "names", "thousands", {
        **header, **{f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [data, data]}
                     for i in range(5000)}
    }  # fmt: skip
