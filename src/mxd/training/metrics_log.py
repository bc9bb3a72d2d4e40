"""Metrics to metrics.jsonl, TensorBoard and, on request, further trackers."""

import importlib
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from mxd._durable_files import cannot_write
from mxd.errors import UserError
from mxd.training.board import Board

METRICS, BOARD = "metrics.jsonl", "tensorboard"
_BLOCK_BYTES = 1 << 16
_logger = logging.getLogger(__name__)


class MetricsLog:
    """Writes each row of metrics everywhere; without a folder, to the trackers alone.

    metrics.jsonl is part of the run: where it cannot be written, training stops. TensorBoard and
    the trackers are not: one that fails is named once and left out from then on.

    Args:
        folder: the run's folder.
        trackers: further trackers by name.
        config: what to tell them of the run.
        goes_on: keep the rows that are there, until `rewind` says how many count.

    Raises:
        CannotWriteError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path | None,
        trackers: Sequence[str] = (),
        config: dict[str, Any] | None = None,
        *,
        goes_on: bool = False,
    ) -> None:
        self._trackers: dict[str, Any] = {name: _start(name, config or {}) for name in trackers}
        self._file = None if folder is None else _Lines(folder / METRICS, goes_on)
        if folder is not None:
            self._or_without(BOARD, lambda: self._trackers.update({BOARD: Board(folder / BOARD)}))

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        for name, tracker in list(self._trackers.items()):
            self._or_without(name, tracker.finish)

    def synced(self) -> int:
        """Bring the rows so far to the disk, for a checkpoint that counts on them; their bytes.

        Raises:
            CannotWriteError: the disk is failing.
        """
        return 0 if self._file is None else self._file.synced()

    def rewind(self, size: int, step: int) -> None:
        """Go on after the rows of a checkpoint; those of steps that will be made again go.

        Where rows of the checkpoint are missing, that is said, and the log goes on after the last
        whole one.

        Args:
            size: what `synced` gave.
            step: the last step that counts.

        Raises:
            CannotWriteError: the disk is failing.
        """
        if self._file is not None:
            self._file.rewind(size)
        board = self._trackers.get(BOARD)
        if board is not None:
            self._or_without(BOARD, partial(board.begin_after, step))

    def row(self, values: dict[str, Any]) -> None:
        """One student's figures at one step; `step`, `site` and `student` say whose.

        Raises:
            CannotWriteError: the disk is full, or failing; metrics.jsonl ends with a whole row.
        """
        if self._file is not None:
            self._file.add(json.dumps(_finite(values), allow_nan=False))
        figures = {
            f"{values['site']}/{values['student']}/{key}": value
            for key, value in values.items()
            if isinstance(value, float) and math.isfinite(value)
        }
        step = values["step"]  # one step, however many students
        for name, tracker in list(self._trackers.items()):
            self._or_without(name, partial(tracker.log, figures, step=step))

    def _or_without(self, name: str, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:  # trackers have exceptions of their own; none is worth a run
            self._trackers.pop(name, None)
            _logger.warning(
                "%s gets no more metrics of this run (%s: %s); the run goes on without it",
                name,
                type(error).__name__,
                error,
            )


class _Lines:
    """A file of lines, of which none is ever there in part."""

    def __init__(self, path: Path, goes_on: bool) -> None:
        self._path = path
        mode = "r+b" if goes_on and path.is_file() else "w+b"
        try:  # unbuffered, so that nothing is left to be written when it is closed
            self._file = path.open(mode, buffering=0)
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise cannot_write(path, error) from error

    @property
    def size(self) -> int:
        return self._file.tell()

    def rewind(self, size: int) -> None:
        try:
            there = min(size, self.size)
            whole = self._whole_lines(there)
            self._file.truncate(whole)
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        if whole < size:
            _logger.warning(
                "%s has %d bytes of whole rows, and had %d when the checkpoint was saved: the rows "
                "between are missing",
                self._path,
                whole,
                size,
            )

    def _whole_lines(self, end: int) -> int:
        """Bytes of the whole lines among the first so many bytes."""
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            self._file.seek(start)
            found: int = self._file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0

    def synced(self) -> int:
        try:
            os.fsync(self._file.fileno())  # nothing is held back: the file is unbuffered
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return self.size

    def add(self, line: str) -> None:
        start = self._file.tell()
        rest = f"{line}\n".encode()
        try:
            while rest:  # a disk that has little room takes a part
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(start)
                self._file.seek(start)
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        self._file.close()


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def check_trackers(names: Sequence[str]) -> None:
    """Make sure, before any work is done, that trackers are installed.

    Raises:
        UserError: one is not.
    """
    for name in names:
        _import(name)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"tracker {name} is not installed; pip install 'mixture-of-decoders[trackers]'"
        ) from None


def _start(name: str, config: dict[str, Any]) -> Any:
    return _import(name).init(project="mxd", config=config)
