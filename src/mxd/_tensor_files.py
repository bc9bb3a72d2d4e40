"""Read safetensors that somebody else may have written: the header is proved before it is believed.

The format (huggingface.co/docs/safetensors): eight bytes that give the length of a JSON object,
that object (for each tensor its type, shape and place), then the tensors' bytes without gaps.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mxd._json_files import parse_json
from mxd._outside_files import cannot_read, check_inside, open_plain
from mxd.errors import UserError

_MOST_HEADER_BYTES = 16 << 20  # parsed, it may take thirty times as much memory
_MOST_DIMENSIONS = 16
_MOST_NAME = 1024
_LENGTH = struct.Struct("<Q")
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Entry(NamedTuple):
    """What a header says of one tensor."""

    dtype: torch.dtype
    """Its type."""
    shape: tuple[int, ...]
    """Its shape."""


class TensorFile:
    """A safetensors file whose header holds true; tensors are mapped when they are asked for.

    Args:
        path: the file.
        remedy: what to do about a damaged one.

    Raises:
        MissingFileError: there is no such file.
        UserError: no plain file, a pickle, or a header that the file's own size belies.
    """

    def __init__(self, path: Path, *, remedy: str = "fetch or save it again") -> None:
        self.path, self._remedy = path, remedy
        check_inside(path)
        self.entries = self._read_header()
        """What the file holds, by name."""
        try:
            self._file: Any = safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise self._damaged(str(error)) from None
        except OSError as error:  # it is gone since
            raise cannot_read(path, error) from None

    def check(self, wanted: Mapping[str, tuple[int, ...]], *, says: str, only: bool = True) -> None:
        """Make sure that the file holds tensors of these shapes.

        Args:
            wanted: shapes by name.
            says: the file that they are expected by.
            only: whether others are an error.

        Raises:
            UserError: it does not.
        """
        missing = sorted(set(wanted) - set(self.entries))
        extra = sorted(set(self.entries) - set(wanted)) if only else []
        if missing or extra:
            raise UserError(
                f"{self.path} does not fit its {says}: missing tensors {_few(missing)}, unexpected "
                f"{_few(extra)}; {self._remedy}"
            )
        for name, shape in wanted.items():
            found = self.entries[name].shape
            if found != shape:
                raise UserError(
                    f"{self.path}: {name} has shape {found}, expected {shape} as {says} says; "
                    f"{self._remedy}"
                )

    def tensor(self, name: str) -> Tensor:
        """A whole tensor; its memory is the file's own, fetched when it is touched."""
        try:
            whole: Tensor = self._file.get_tensor(name)
        except (SafetensorError, RuntimeError) as error:
            raise self._damaged(str(error)) from None
        return whole

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Consecutive rows of a tensor."""
        try:
            part: Tensor = self._file.get_slice(name)[start:stop]
        except (SafetensorError, RuntimeError) as error:
            raise self._damaged(str(error)) from None
        return part

    def _read_header(self) -> dict[str, Entry]:
        with open_plain(self.path) as file:
            try:
                size = file.seek(0, 2)
                file.seek(0)
                first = file.read(_LENGTH.size)
                if first.startswith(_PICKLE_STARTS) and not _could_be_length(first, size):
                    raise UserError(
                        f"{self.path} is a pickle, which is never read; expected safetensors; "
                        "save it so"
                    )
                if not _could_be_length(first, size):
                    raise ValueError("its header is longer than the file, or than any should be")
                content = file.read(_LENGTH.unpack(first)[0])
                return _entries(parse_json(content), size - _LENGTH.size - len(content))
            except OSError as error:
                raise cannot_read(self.path, error) from None
            except UserError:
                raise
            except ValueError as error:
                raise self._damaged(str(error)) from None

    def _damaged(self, reason: str) -> UserError:
        return UserError(
            f"{self.path} is damaged or truncated: expected safetensors, {reason}; {self._remedy}"
        )


def _could_be_length(first: bytes, size: int) -> bool:
    if len(first) < _LENGTH.size:
        return False
    length = _LENGTH.unpack(first)[0]
    return bool(2 <= length <= min(size - _LENGTH.size, _MOST_HEADER_BYTES))


def _entries(header: Any, data_bytes: int) -> dict[str, Entry]:
    """The tensors of a header, which must fill the file's data without gap or overlap."""
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    extra = header.pop("__metadata__", {})
    if not isinstance(extra, dict) or not all(isinstance(v, str) for v in extra.values()):
        raise ValueError("its metadata are no texts")
    places = {name: _place(name, entry) for name, entry in header.items()}
    reached = 0
    for name, (_, begin, end) in sorted(places.items(), key=lambda one: one[1][1:]):
        if begin != reached:
            raise ValueError(f"{name[:80]!r} begins at byte {begin}, expected {reached}")
        reached = end
    if reached != data_bytes:
        raise ValueError(f"its tensors take {reached} bytes, and {data_bytes} are there")
    return {name: entry for name, (entry, _, _) in places.items()}


def _place(name: str, said: Any) -> tuple[Entry, int, int]:
    what = repr(name[:80])
    if len(name) > _MOST_NAME or not isinstance(said, dict):
        raise ValueError(f"{what} is no tensor")
    if set(said) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{what} has {_few(sorted(said))}, expected dtype, shape, data_offsets")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise ValueError(f"{what} has the type {str(dtype)[:20]!r}, expected {', '.join(_TYPES)}")
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{what} has the shape {str(shape)[:80]}, expected a few whole numbers")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{what} has offsets {str(offsets)[:80]}, expected two whole numbers")
    begin, end = offsets
    wanted = math.prod(shape) * _TYPES[dtype].itemsize
    if end - begin != wanted:
        raise ValueError(f"{what} takes {end - begin} bytes, expected {wanted} by type and shape")
    return Entry(_TYPES[dtype], tuple(shape)), begin, end


def _are_counts(value: Any) -> bool:
    """Whether a value is a list of whole numbers that sizes can be."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _few(names: list[str], most: int = 8) -> list[str]:
    """The first of many names, each cut short."""
    shown = [name[:80] for name in names[:most]]
    return shown if len(names) <= most else [*shown, f"and {len(names) - most} more"]
