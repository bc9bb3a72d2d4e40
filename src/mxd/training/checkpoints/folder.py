"""The folder of a run's checkpoints: which there are, and the newest that is whole."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from mxd._durable_files import cannot_write, sha256_of
from mxd._json_files import read_json_object
from mxd._outside_files import check_below
from mxd._tensor_files import TensorFile
from mxd.errors import UserError

FORMAT, FORMAT_VERSION = "mxd-checkpoint", 2
CHECKPOINTS, MANIFEST = "checkpoints", "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,15})")
_FILE = re.compile(r"[a-z]+-\d{1,6}(-\d{1,6})?\.safetensors")
_UNFINISHED = re.compile(r"\.step-\d{8,15}\.(new|old)")
_LEFT = re.compile(r"\.step-\d{8,15}\.left")
MAX_JSON_BYTES = 64 << 20

logger = logging.getLogger(__name__)


def step_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step-{step:08d}"


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where a run's checkpoint of a step is."""
    return run / CHECKPOINTS / step_name(step)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all there and are what was written."""

    folder: Path
    """Where it is."""
    content: dict[str, Any]
    """The content of its checkpoint.json."""

    @property
    def step(self) -> int:
        """Steps of the run before it."""
        step = self.content["step"]
        assert type(step) is int
        return step

    def tensors(
        self, file: str, rows: Mapping[str, slice] = MappingProxyType({})
    ) -> dict[str, torch.Tensor]:
        """The tensors of one of its files.

        Args:
            file: its name.
            rows: of which tensors to read these rows alone.

        Raises:
            UserError: there is no such file in it, or it is no safetensors file.
        """
        if file not in self.content["files"]:
            raise UserError(f"{self.folder / MANIFEST} lists no file {file!r}; it is damaged")
        opened = TensorFile(self.folder / file, remedy="an earlier checkpoint may be good")
        return {
            name: opened.rows(name, *rows[name].indices(entry.shape[0])[:2])
            if name in rows
            else opened.tensor(name)
            for name, entry in opened.entries.items()
        }


def saved_steps(run: Path) -> list[int]:
    """The steps that a run has checkpoints of, the newest first."""
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        return []
    found = (_NAME.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return sorted((int(match[1]) for match in found if match), reverse=True)


def newest_good(run: Path) -> Iterator[Checkpoint]:
    """The checkpoints of a run that are whole, the newest first; others are named in the log.

    Others are damaged, or cannot be read at the moment.

    Args:
        run: the run's folder.
    """
    for step in saved_steps(run):
        folder = run / CHECKPOINTS / step_name(step)
        try:
            yield read_checkpoint(folder)
        except (UserError, OSError) as error:
            logger.warning("checkpoint %s is left out: %s", folder, error)


def unchecked(run: Path, step: int) -> Checkpoint:
    """A run's checkpoint of a step, whose checksums another process has compared.

    Raises:
        UserError: something is missing or damaged.
    """
    return read_checkpoint(checkpoint_folder(run, step), compare=False)


def read_checkpoint(folder: Path, *, compare: bool = True) -> Checkpoint:
    """Read a checkpoint's record and compare all its files with their checksums.

    Args:
        folder: where it is.
        compare: whether to compare checksums, for which all files are read.

    Raises:
        UserError: something is missing or damaged, or of another format.
        OSError: the disk does not give a file.
    """
    path = folder / MANIFEST
    check_below(path, folder.parents[1])  # of the run
    content = read_json_object(
        path,
        missing=f"{folder} has no {MANIFEST}",
        remedy="an earlier checkpoint may be good",
        most_bytes=MAX_JSON_BYTES,
    )
    if content.get("format") != FORMAT or content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format {content.get('format')!r} {content.get('format_version')!r}, "
            f"expected {FORMAT!r} {FORMAT_VERSION}; resume with the version of mxd that wrote it"
        )
    if content.get("checksum") != checksum(content):
        raise UserError(f"{path} is damaged: its content does not have its checksum")
    step, files = content.get("step"), content.get("files")
    if type(step) is not int or step_name(step) != folder.name or not isinstance(files, dict):
        raise UserError(f"{path} is damaged: it is not the record of {folder.name}")
    for name, entry in files.items():
        _check_file(folder, name, entry, compare)
    return Checkpoint(folder, content)


def checksum(content: dict[str, Any]) -> str:
    """SHA-256 of a checkpoint.json without its `checksum`."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_file(folder: Path, name: str, entry: Any, compare: bool) -> None:
    path = folder / name
    if not _FILE.fullmatch(name) or path.is_symlink() or not isinstance(entry, dict):
        raise UserError(f"{folder / MANIFEST} is damaged: it lists a file {name!r}")
    if not path.is_file():
        raise UserError(f"{path} is missing")
    size = path.stat().st_size
    if size != entry.get("bytes"):
        raise UserError(f"{path} has {size} bytes, expected {entry.get('bytes')}")
    if compare and sha256_of(path) != entry.get("sha256"):
        raise UserError(f"{path} is damaged: its content does not have its checksum")


def put_aside_after(run: Path, step: int) -> None:
    """Rename the checkpoints beyond a step, from which a run does not go on.

    What could not be read or used today may be good, so nothing of it is deleted: it stays as
    `.step-N.left` until the run is finished, or another one of that step is put aside.

    Raises:
        CannotWriteError: one cannot be renamed; the run would take it for its newest.
    """
    for later in saved_steps(run):
        if later > step:
            folder = checkpoint_folder(run, later)
            left = folder.with_name(f".{folder.name}.left")
            try:
                if left.exists():
                    shutil.rmtree(left)
                folder.rename(left)
            except OSError as error:
                raise cannot_write(left, error) from error
            logger.warning(
                "checkpoint %s is put aside as %s, until the run is finished", folder, left.name
            )


def remove_left(run: Path) -> None:
    """Delete what `put_aside_after` put aside: the run is finished."""
    _remove(run, _LEFT)


def delete(folder: Path) -> None:
    """Delete a checkpoint; it loses its name first, so that half of one is never taken for one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def remove_unfinished(run: Path, *, but: int | None = None) -> None:
    """Delete what a process left that was killed, or failed, while it wrote a checkpoint.

    Args:
        run: the run's folder.
        but: a step whose checkpoint is being written.
    """
    _remove(run, _UNFINISHED, but=None if but is None else f".{step_name(but)}.new")


def _remove(run: Path, names: re.Pattern[str], but: str | None = None) -> None:
    folder = run / CHECKPOINTS
    for path in folder.iterdir() if folder.is_dir() else ():
        if names.fullmatch(path.name) and path.name != but:
            shutil.rmtree(path, ignore_errors=True)
