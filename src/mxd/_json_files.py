"""Read JSON that somebody else may have written: size and kind before content."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mxd._outside_files import MissingFileError, check_inside, read_plain
from mxd.errors import UserError

MOST_DEPTH = 64
"""Lists and objects within each other; more would exhaust the stack of whoever walks them."""
_MOST_CONTAINERS = 1_000_000  # parsed, three bytes of these may take two hundred,
_MOST_ITEMS = 8_000_000  # and four bytes of others eighty
_MOST_DIGITS = 40


def read_json_object(
    path: Path, *, missing: str, remedy: str, most_bytes: int, finite: bool = True
) -> dict[str, Any]:
    """The object that a file holds.

    Args:
        path: the file.
        missing: what to say where there is no such file.
        remedy: what to do about a damaged one.
        most_bytes: a larger file is not read.
        finite: refuse NaN and infinity, which are no JSON although Python writes them.

    Raises:
        UserError: missing, too large, no plain file, no JSON, or no object.
    """
    check_inside(path)
    try:
        content = read_plain(path, most_bytes)
    except MissingFileError:
        raise UserError(missing) from None
    try:
        raw = parse_json(content, finite=finite)
    except ValueError as error:
        raise UserError(f"{path} is damaged: expected JSON, {error}; {remedy}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} is damaged: expected a JSON object, got {type(raw).__name__}")
    return raw


def json_object_or_none(path: Path, most_bytes: int) -> dict[str, Any] | None:
    """The object that a file holds; None where it is missing or damaged."""
    try:
        return read_json_object(path, missing="", remedy="", most_bytes=most_bytes)
    except UserError:
        return None


def parse_json(content: bytes | str, *, finite: bool = True) -> Any:
    """The value of a JSON text.

    Args:
        content: UTF-8, or text.
        finite: refuse NaN and infinity.

    Raises:
        ValueError: not UTF-8, no JSON, a key twice, or too many, too deep or too long values.
    """
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    for what, count, most in (
        ("lists and objects", text.count("[") + text.count("{"), _MOST_CONTAINERS),
        ("items", text.count(","), _MOST_ITEMS),
    ):
        if count > most:
            raise ValueError(f"got {count} {what}, expected at most {most}")
    try:
        value = (_FINITE if finite else _ANY).decode(text)
    except RecursionError:
        raise _too_deep() from None
    check_depth(value, text)
    return value


def check_depth(value: Any, text: str | bytes) -> None:
    """Refuse a value that is nested too deep.

    Args:
        value: the value.
        text: what it was parsed from; most hold too few brackets to be looked into.

    Raises:
        ValueError: it is.
    """
    if isinstance(text, str):
        brackets = text.count("[") + text.count("{")
    else:
        brackets = text.count(b"[") + text.count(b"{")
    if brackets <= MOST_DEPTH:
        return
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [one for one in level if isinstance(one, (dict, list))]
        if not level:
            return
        level = [item for one in level for item in _within(one)]
    raise _too_deep()


def _within(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _too_deep() -> ValueError:
    return ValueError(f"got values nested deeper than {MOST_DEPTH}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"got the key {twice[:80]!r} twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"got a number of {len(digits)} digits, expected at most {_MOST_DIGITS}")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"got the number {digits[:20]}, expected one that a float can hold")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"got {name}, expected a number")


_ANY = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
_FINITE = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_finite,
    parse_constant=_no_constant,
)
