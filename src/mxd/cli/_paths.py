"""Names of outputs and sources, as a user types them."""

import glob
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mxd._durable_files import cannot_write, replace_text
from mxd._outside_files import is_there
from mxd.errors import UserError
from mxd.training import Interrupted, Stopped, saved_steps

_JSON_REMEDY = (
    "make room, or name another file with --json; what else the command writes is there already"
)


def next_free(folder: Path) -> Path:
    """The folder itself if nothing is there, else the first of NAME-2, NAME-3, … that is free."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate


def lasting(source: str) -> str:
    """A source that means the same from every working directory: paths become absolute."""
    if "\0" in source:
        return source  # no path; whoever opens it says so
    is_path = is_there(Path(source)) or bool(glob.glob(source))  # noqa: PTH207
    return os.path.abspath(source) if is_path else source  # noqa: PTH100


def check_json_target(path: Path | None) -> None:
    """Make sure, before hours of work, that a JSON file can be written.

    Raises:
        UserError: its folder does not exist or cannot be written to.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"got --json {path}, a folder, expected the name of a file; add one")
    if not path.parent.is_dir():
        raise UserError(
            f"got --json {path}, expected a file in a folder that exists; make {path.parent}"
        )
    check_writable(path.parent)


def check_writable(folder: Path) -> None:
    """Make sure that files can be written into a folder.

    Raises:
        UserError: they cannot.
    """
    if not os.access(folder, os.W_OK):
        raise UserError(
            f"got the folder {folder}, which cannot be written to, expected one that can; "
            "change its permissions, or choose or copy to another"
        )


@contextmanager
def keeping(out: Path) -> Iterator[None]:
    """Say on Ctrl-C or SIGTERM what is kept, and how to go on."""
    try:
        yield
    except Interrupted:
        raise  # it says so itself
    except KeyboardInterrupt as stop:
        number = stop.signal_number if isinstance(stop, Stopped) else signal.SIGINT
        kept = _kept(out)
        if not kept:
            raise
        raise Stopped(kept, number) from None


def _kept(out: Path) -> str:
    """What a run that was stopped has left."""
    steps = saved_steps(out)
    if steps:
        return f"the run in {out} is saved at step {steps[0]}; give the same command with --resume"
    if (out / "layers").is_dir():
        return (
            f"the layers, as far as they were trained, are in {out}; measure them with "
            f"`mxd eval {out}`, or start again with --overwrite"
        )
    return ""


def write_json(path: Path | None, document: dict[str, Any]) -> None:
    """Write a JSON document as a whole, if a file was asked for.

    Raises:
        CannotWriteError: the disk is full, or the folder cannot be written to.
    """
    if path is None:
        return
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if not path.exists() or path.is_file():
        replace_text(path, text, remedy=_JSON_REMEDY)
        return
    try:  # a pipe, or a device such as /dev/stdout, stays what it is
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error, _JSON_REMEDY) from error
