"""Write checkpoints beside the training, each as a whole or not at all."""

import json
import logging
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mxd._durable_files import cannot_write, replace_text, sha256_of, sync_file, sync_folder
from mxd._json_files import parse_json
from mxd.errors import CannotWriteError, UserError
from mxd.training.checkpoints import joining
from mxd.training.checkpoints.folder import (
    CHECKPOINTS,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    MAX_JSON_BYTES,
    checksum,
    delete,
    remove_unfinished,
    saved_steps,
    step_name,
)
from mxd.training.checkpoints.joining import hear, joined, tell

logger = logging.getLogger(__name__)
_REMEDY = "train fewer students in a run"


@dataclass(frozen=True)
class Part:
    """What one process has to save."""

    content: Mapping[str, Any]
    """Entries of checkpoint.json."""
    files: Mapping[str, Mapping[str, Tensor]]
    """Tensors by the name of their file."""

    def copied(self) -> "Part":
        """The same with tensors in CPU memory that nobody else changes."""
        files = {
            file: {name: _copy(tensor) for name, tensor in tensors.items()}
            for file, tensors in self.files.items()
        }
        return Part(self.content, files)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


class CheckpointWriter:
    """Writes checkpoints of a run in a thread of its own.

    What is to be saved is copied before `save` returns; files are written, brought to the disk and
    checksummed beside the training. A checkpoint is written into a hidden folder and gets its name
    when all of it is on the disk. One that cannot be written is told of in the log, and the run
    goes on.

    Of several processes each writes files of its own into that folder, and says so in one more; the
    first one waits for these and makes a checkpoint of it. They need a file system in common.

    Args:
        run: the run's folder.
        keep: newest checkpoints that are kept.
        rank: this process's number.
        ranks: how many there are.
    """

    def __init__(self, run: Path, keep: int, rank: int = 0, ranks: int = 1) -> None:
        self._folder, self._keep = run / CHECKPOINTS, keep
        self._rank, self._others = rank, range(1, ranks)
        self._deserted = threading.Event()
        self._limit = 0.0
        self._thread: threading.Thread | None = None
        self.failure: str | None = None
        """Why the newest checkpoint could not be written; None where it could."""
        self.newest: int | None = next(iter(saved_steps(run)), None)
        """The step of the newest checkpoint that is on the disk."""

    def save(self, step: int, part: Part) -> None:
        """Save a state; returns once it is copied, and waits for the checkpoint before it."""
        self.wait()
        self._limit = monotonic() + joining.PATIENCE_SECONDS
        try:
            copied = part.copied()
        except (MemoryError, RuntimeError) as error:  # no room for a second state
            self._failed(step, error)
            return
        self._thread = threading.Thread(
            target=self._guarded, args=(step, copied), name="mxd-checkpoint"
        )
        self._thread.start()

    def all_have_told(self) -> None:
        """Wait no longer than for a file system: all others have told, or never will."""
        self._limit = min(self._limit, monotonic() + joining.SEEN_SECONDS)

    def desert(self) -> None:
        """Wait no longer for other processes: one of them is gone."""
        self._deserted.set()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _guarded(self, step: int, part: Part) -> None:
        self.failure = None
        try:
            self._write(step, part)
        except Exception as error:  # whatever it is, the training goes on, and must know
            self._failed(step, error)

    def _failed(self, step: int, error: Exception) -> None:
        """Say that there is no checkpoint of a step, here and to the other processes."""
        said = getattr(error, "strerror", None) or str(error)
        self.failure = said or type(error).__name__
        last = "there is none before" if self.newest is None else f"the last is {self.newest}"
        logger.warning(
            "the checkpoint at step %d could not be written (%s); %s; the run goes on",
            step,
            self.failure,
            last,
            exc_info=not isinstance(error, (OSError, SafetensorError, UserError, MemoryError)),
        )
        new = self._folder / f".{step_name(step)}.new"
        if self._rank:
            with suppress(CannotWriteError, OSError):
                new.mkdir(parents=True, exist_ok=True)  # it may have failed before the first began
                tell(new, self._rank, {"failure": self.failure})
        else:
            shutil.rmtree(new, ignore_errors=True)

    def _write(self, step: int, part: Part) -> None:
        final = self._folder / step_name(step)
        new = self._folder / f".{final.name}.new"
        if not self._rank:
            remove_unfinished(self._folder.parent, but=step if self._others else None)
        # Whoever comes first makes it: who waits for one that is gone does not notice that.
        new.mkdir(parents=True, exist_ok=True)
        files = {name: write_tensors(new / name, part.files[name]) for name in part.files}
        if self._rank:
            tell(new, self._rank, {"content": dict(part.content), "files": files})
            return
        content: Mapping[str, Any] = part.content
        if self._others:
            told = [hear(new, rank, self._deserted, lambda: self._limit) for rank in self._others]
            content, files = joined(content, files, told)
        seal(new, {"step": step, **content}, files)
        if final.exists():
            delete(final)
        new.rename(final)
        sync_folder(self._folder)
        self.newest = step
        for old in saved_steps(self._folder.parent)[self._keep :]:
            delete(self._folder / step_name(old))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write a safetensors file and bring it to the disk; its entry in checkpoint.json."""
    save_file(dict(tensors), path, {"format": "pt"})
    sync_file(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def seal(folder: Path, content: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Write a checkpoint's record, with which it is whole.

    Raises:
        CannotWriteError: the disk is full, or the record is more than could be read again.
    """
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **content, "files": files}
    try:
        document = parse_json(json.dumps(document, allow_nan=False))  # as it will be read
    except ValueError as error:
        raise cannot_write(folder / MANIFEST, error, _REMEDY) from error
    document["checksum"] = checksum(document)
    text = json.dumps(document) + "\n"
    if len(text) > MAX_JSON_BYTES:  # all of it is ASCII
        raise CannotWriteError(
            f"{folder / MANIFEST} would have {len(text)} bytes, expected at most {MAX_JSON_BYTES}; "
            f"{_REMEDY}"
        )
    replace_text(folder / MANIFEST, text)
