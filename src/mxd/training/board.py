"""Figures as TensorBoard's event files, written at once and without a thread."""

import os
import socket
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

_VERSION = "brain.Event:2"
_numbers = count()


class Board:
    """One event file, used as a tracker.

    TensorBoard's own writer works in a thread, which a full disk ends unheard.

    Args:
        folder: TensorBoard's folder; it may hold the files of earlier attempts.

    Raises:
        OSError: it cannot be written to; so do the methods.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        origin = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        # Unbuffered, so that nothing is left to be written when it is closed after an error.
        self._file = (folder / f"events.out.tfevents.{origin}").open("wb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(file_version=_VERSION)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Write figures by their names.

        Raises:
            OSError: they cannot be written.
        """
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        self._write(summary=Summary(value=values), step=step)

    def begin_after(self, step: int) -> None:
        """Let what earlier files hold of later steps count no more.

        Raises:
            OSError: it cannot be written.
        """
        self._write(session_log=SessionLog(status=SessionLog.START), step=step + 1)

    def finish(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        event = Event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
