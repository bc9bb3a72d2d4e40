"""Metrics to metrics.jsonl, TensorBoard and, on request, further trackers."""

import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from mxd.errors import UserError


class MetricsLog:
    """Writes each row of metrics everywhere; without a folder, to the trackers alone."""

    def __init__(
        self,
        folder: Path | None,
        trackers: Sequence[str] = (),
        config: dict[str, Any] | None = None,
    ) -> None:
        self._trackers = [_start(name, config or {}) for name in trackers]
        self._file = (
            None if folder is None else (folder / "metrics.jsonl").open("w", encoding="utf-8")
        )
        self._board = None if folder is None else SummaryWriter(str(folder / "tensorboard"))

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
        if self._board is not None:
            self._board.close()
        for tracker in self._trackers:
            tracker.finish()

    def row(self, values: dict[str, Any]) -> None:
        """One student's figures at one step; `step`, `site` and `student` say whose."""
        if self._file is not None:
            self._file.write(json.dumps(_finite(values), allow_nan=False) + "\n")
            self._file.flush()
        figures = {
            f"{values['site']}/{values['student']}/{key}": value
            for key, value in values.items()
            if isinstance(value, float) and math.isfinite(value)
        }
        if self._board is not None:
            for tag, value in figures.items():
                self._board.add_scalar(tag, value, values["step"])
        for tracker in self._trackers:
            tracker.log(figures, step=values["step"])  # one step, however many students


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
