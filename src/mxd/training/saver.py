"""When a run is saved: now and then, and when it is asked to stop."""

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, runtime_checkable

from mxd.training.checkpoints import CheckpointOptions, CheckpointWriter, Part
from mxd.training.interruption import Interrupted, Interruption

logger = logging.getLogger(__name__)


@runtime_checkable
class Saved(Protocol):
    """What can be saved."""

    step: int

    def state(self) -> Part:
        """All that a checkpoint holds."""


class Saver:
    """Saves a run after those steps at which it is due.

    Args:
        run: the run's folder; None saves nothing.
        options: when, and how much is kept.
        record: entries of every checkpoint.json that do not change.
        interruption: whether somebody asked the run to stop.
    """

    def __init__(
        self,
        run: Path | None,
        options: CheckpointOptions,
        record: dict[str, Any],
        interruption: Interruption,
    ) -> None:
        self._run, self._options, self._record = run, options, record
        self._interruption = interruption
        self._writer = None if run is None else CheckpointWriter(run, options.keep)
        self._last = monotonic()

    def stoppable(self) -> AbstractContextManager[None]:
        """Let a signal wait for the end of the step; the context that training goes on in."""
        return self._interruption.waiting()

    def after(self, run: Saved) -> None:
        """Save if it is due at this step, or if the run is to stop.

        Raises:
            Interrupted: it is.
        """
        if self._writer is None:
            return
        if self._interruption.asked is not None:
            self._save(run)
            self.close()
            raise Interrupted(self._farewell(run.step), self._interruption.asked)
        if self._options.due(run.step, (monotonic() - self._last) / 60):
            self._save(run)

    def close(self) -> None:
        """Wait until everything is written."""
        if self._writer is not None:
            self._writer.wait()

    def _save(self, run: Saved) -> None:
        assert self._writer is not None
        part = run.state()
        self._writer.save(run.step, Part({**self._record, **part.content}, part.files))
        self._last = monotonic()

    def _farewell(self, step: int) -> str:
        assert self._writer is not None
        again = "give the same command with --resume to go on"
        if self._writer.failure is None:
            return f"saved at step {step} in {self._run}; {again}"
        newest = self._writer.newest
        kept = "there is no checkpoint" if newest is None else f"the last one is of step {newest}"
        return f"step {step} could not be saved ({self._writer.failure}), {kept}; {again}"
