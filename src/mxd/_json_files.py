"""Read JSON that somebody else may have written: size and kind before content."""

import json
from pathlib import Path
from typing import Any

from mxd.errors import UserError


def read_json_object(path: Path, *, missing: str, remedy: str, most_bytes: int) -> dict[str, Any]:
    """The object that a file holds.

    Args:
        path: the file.
        missing: what to say where there is no such file.
        remedy: what to do about a damaged one.
        most_bytes: a larger file is not read.

    Raises:
        UserError: missing, too large, no JSON, or no object.
    """
    if not path.is_file():
        raise UserError(missing)
    if path.stat().st_size > most_bytes:
        raise UserError(f"{path} has {path.stat().st_size} bytes, expected at most {most_bytes}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: expected JSON, {error}; {remedy}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} is damaged: expected a JSON object, got {type(raw).__name__}")
    return raw
