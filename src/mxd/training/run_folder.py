"""A run's folder: made when there is something to write, taken away when the run fails."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mxd._durable_files import passing_name, replace_text
from mxd._held_folder import held_folder
from mxd._json_files import read_json_object
from mxd.errors import CannotWriteError, UserError

FORMAT, FORMAT_VERSION = "mxd-run", 1
RUN_FILE = "run.json"
_MAX_JSON_BYTES = 64 << 20


def check_free(folder: Path, overwrite: bool) -> None:
    """Make sure that a run may be written here, before any work is done.

    Raises:
        UserError: something is there already and may not be replaced.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(
            f"output {folder} is a file, expected the name of a folder to write; choose another"
        )
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(
            f"output folder {folder} cannot be made, because {parent} is no folder that can be "
            "written to, expected one; choose another"
        )
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise UserError(
            f"output folder {folder} exists; choose another, or pass --overwrite to replace it"
        )
    if not (folder / RUN_FILE).is_file():
        raise UserError(
            f"{folder} is not the folder of a run, so it is not overwritten; choose another"
        )


@contextmanager
def writing(folder: Path, overwrite: bool, *, unsaved: bool = False) -> Iterator[Path]:
    """A new run's folder. An error takes it away again and puts back what it replaced.

    Ctrl-C is no error: what has been written stays. So does a run that has a checkpoint or layers,
    whatever the error.

    Args:
        folder: the folder.
        overwrite: whether an earlier run in it may be replaced.
        unsaved: replace it only as long as it has no checkpoint.

    Raises:
        UserError: it cannot be written to, another process is at work in it, or has saved
            something there meanwhile.
    """
    check_free(folder, overwrite)
    replaced = _replaced(folder)
    new_parents = [path for path in folder.absolute().parents if not path.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)  # a run that was being replaced when the machine went down
        if folder.exists():
            with held_folder(folder, work="training"):
                if unsaved and _has(folder, _CHECKPOINTS):
                    raise UserError(
                        f"the run in {folder} was saved by another process while this one was "
                        "starting, expected none; give the same command again to go on with it"
                    )
                shutil.rmtree(replaced, ignore_errors=True)
                folder.rename(replaced)
        folder.mkdir()
    except OSError as error:
        _remove_empty(new_parents)
        raise UserError(
            f"output folder {folder} cannot be written ({error.strerror}), expected one that can; "
            "choose another"
        ) from None
    try:
        with held_folder(folder, work="training"):
            yield folder
    except Exception as error:
        if _has(folder, _CHECKPOINTS):
            raise
        if _has(folder, _LAYERS):
            if isinstance(error, CannotWriteError):
                kept = f"what was finished before is in {folder}"
                raise CannotWriteError(f"{error}; {kept}") from error
            raise
        shutil.rmtree(folder, ignore_errors=True)
        if replaced.exists():
            replaced.rename(folder)
        _remove_empty(new_parents)
        raise
    finally:
        shutil.rmtree(replaced, ignore_errors=True)


_CHECKPOINTS = "checkpoints/step-*/*.safetensors"
_LAYERS = "layers/*/*/model.safetensors"


def _has(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def _replaced(folder: Path) -> Path:
    """Where an earlier run is while another takes its place."""
    return folder.absolute().with_name(f".{folder.absolute().name}.replaced")


def _remove_empty(folders: list[Path]) -> None:
    """Take folders away, the innermost first, unless somebody has put something into one."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def continuing(folder: Path) -> Iterator[Path]:
    """The folder of a run that goes on; whatever happens, what is saved stays.

    Raises:
        UserError: another process is at work in it.
    """
    with held_folder(folder, work="training"):
        # A run that was killed while it replaced another has a checkpoint now: that one can go.
        shutil.rmtree(_replaced(folder), ignore_errors=True)
        yield folder


def begun_run(folder: Path) -> dict[str, Any] | None:
    """The record of the run in a folder; None where none was begun.

    Raises:
        UserError: there is something else, or a damaged record.
    """
    if (folder / RUN_FILE).is_file():
        return read_run(folder)
    leaving = folder / passing_name(RUN_FILE)  # of a process that was killed at the very start
    if leaving.is_file() and len(list(folder.iterdir())) == 1:
        leaving.unlink()
    check_free(folder, overwrite=False)
    return None


def write_run(folder: Path, content: dict[str, Any]) -> None:
    """Write run.json as a whole.

    Raises:
        CannotWriteError: the disk is full, or the folder cannot be written to.
    """
    text = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **content}, indent=2)
    replace_text(folder / RUN_FILE, text + "\n")


def read_run(folder: Path) -> dict[str, Any]:
    """Read and check run.json.

    Raises:
        UserError: no such run, or one of another format.
    """
    path = folder / RUN_FILE
    content = read_json_object(
        path,
        missing=f"{folder} is no run: it has no {RUN_FILE}; expected a folder `mxd fit` wrote",
        remedy="train again, or fetch it again",
        most_bytes=_MAX_JSON_BYTES,
    )
    if content.get("format") != FORMAT:
        raise UserError(f"{path} is not the record of a run (no format {FORMAT!r})")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {content.get('format_version')!r}, expected "
            f"{FORMAT_VERSION}; update mxd"
        )
    return content
