"""Names of outputs and sources, as a user types them."""

import glob
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from mxd.errors import UserError


def next_free(folder: Path) -> Path:
    """The folder itself if nothing is there, else the first of NAME-2, NAME-3, … that is free."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate


def lasting(source: str) -> str:
    """A source that means the same from every working directory: paths become absolute."""
    is_path = Path(source).exists() or bool(glob.glob(source))  # noqa: PTH207
    return os.path.abspath(source) if is_path else source  # noqa: PTH100


def check_json_target(path: Path | None) -> None:
    """Make sure, before hours of work, that a JSON file can be written.

    Raises:
        UserError: its folder does not exist or cannot be written to.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"--json {path} is a folder, expected the name of a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(
            f"--json {path}: folder {path.parent} cannot be written to, expected one that can"
        )


def write_json(path: Path | None, document: dict[str, Any]) -> None:
    """Write a JSON document as a whole, if a file was asked for."""
    if path is None:
        return
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        json.dump(document, file, indent=2)
        file.write("\n")
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
