"""When a run is saved: now and then, and when it is asked to stop."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn, Protocol, runtime_checkable

from mxd.training.checkpoints import CheckpointOptions, CheckpointWriter, Part
from mxd.training.interruption import Interrupted, Interruption
from mxd.training.team import Agreed, Team, Wishes

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
        team: the processes of the run; all save at the same steps.
    """

    def __init__(
        self,
        run: Path | None,
        options: CheckpointOptions,
        record: dict[str, Any],
        interruption: Interruption,
        team: Team,
    ) -> None:
        self._team = team
        interruption.others = team.size > 1
        self._run, self._options, self._record = run, options, record
        self._interruption = interruption
        self._writer = (
            None if run is None else CheckpointWriter(run, options.keep, team.rank, team.size)
        )
        self._last = monotonic()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The context that training goes on in: a signal waits for the end of the step.

        On leaving it everything is written; after an error, nothing that other processes have to
        take part in.
        """
        try:
            with self._interruption.waiting("saving after this step"):
                yield
        except BaseException:
            # Whoever started several processes asks the others to stop when one is lost.
            self._interruption.ending = self._team.size > 1
            self._abandon()
            raise
        self.close()

    def unwanted(self) -> bool:
        """Whether a wait for the source is to end, so that the run can be saved and stop.

        Of several processes none can leave alone: they wait, and stop together.
        """
        alone = self._team.size == 1 and self._writer is not None
        return alone and self._interruption.asked is not None

    @property
    def asked(self) -> int:
        """The signal that asked this process to stop; 0 where none did."""
        return self._interruption.asked or 0

    def rescue(self, run: Saved) -> None:
        """Save a run that an error ends between two steps, if it is alone and has made one."""
        if self._writer is not None and self._team.size == 1 and run.step:
            self._save(run)
            self.close()

    def wishes(self) -> Wishes:
        """What this process tells the others before a step."""
        late = self._options.late((monotonic() - self._last) / 60)
        return Wishes(self.asked, late)

    def after(self, run: Saved, agreed: Agreed) -> None:
        """Save if it is due at this step, or if the run is to stop.

        Raises:
            Interrupted: it is.
        """
        if self._writer is None:
            return
        # Alone, a signal need not wait for the next step.
        asked = agreed.asked if self._team.size > 1 else self.asked
        late = agreed.late if self._team.size > 1 else self.wishes().late
        if asked:
            self.stop(run, asked)
        if late or self._options.due(run.step):
            self._save(run)

    def stop(self, run: Saved, asked: int) -> NoReturn:
        """Save a run that a signal ends.

        Raises:
            Interrupted: always.
        """
        self._save(run)
        self.close()
        if self._team.size > 1:
            self._interruption.ending = True  # the launcher may ask again
            self._team.all(True)
        raise Interrupted(self._farewell(run.step), asked)

    def storing(self) -> AbstractContextManager[None]:
        """The context that layers are written in: a signal waits for them."""
        return self._interruption.waiting("the run ends when its layers are written")

    def close(self) -> None:
        """Wait until everything is written."""
        if self._writer is None:
            return
        # The first process waits for the files of the others: not before it is known that they are
        # all there, since one that is gone writes none.
        if not self._team.speaks:
            self._writer.wait()
        self._team.all(True)
        self._writer.all_have_told()
        self._writer.wait()

    def _abandon(self) -> None:
        """End what is being written, without the other processes: one of them may be gone."""
        if self._writer is not None:
            self._writer.desert()
            self._writer.wait()

    def _save(self, run: Saved) -> None:
        assert self._writer is not None
        self.close()  # the one before
        if self._writer.newest == run.step:
            return
        part = run.state()
        record = self._record if self._team.speaks else {}
        self._writer.save(run.step, Part({**record, **part.content}, part.files))
        self._last = monotonic()

    def _farewell(self, step: int) -> str:
        assert self._writer is not None
        again = "give the same command with --resume to go on"
        # Of several processes the first alone knows, and speaks.
        if self._writer.newest == step or not self._team.speaks:
            return f"saved at step {step} in {self._run}; {again}"
        newest = self._writer.newest
        kept = "there is no checkpoint" if newest is None else f"the last one is of step {newest}"
        why = f" ({self._writer.failure})" if self._writer.failure else ""
        return f"step {step} could not be saved{why}, {kept}; {again}"
