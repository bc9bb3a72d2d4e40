"""When a run is saved, and how much of it is kept."""

from dataclasses import dataclass

from mxd.errors import UserError
from mxd.training._checks import at_least


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When a run is saved, and how much of it is kept; it does not change what is computed."""

    every_steps: int | None = None
    """Steps between two checkpoints; None for none by steps."""
    every_minutes: float | None = None
    """Minutes between two checkpoints, whichever comes first; None for none by time."""
    keep: int = 2
    """Newest checkpoints that are kept."""

    def __post_init__(self) -> None:
        at_least("keep", self.keep, 1)
        if self.every_steps is not None:
            at_least("every_steps", self.every_steps, 1)
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise UserError(
                f"got every_minutes={self.every_minutes}, expected more than 0, or None"
            )

    def due(self, step: int) -> bool:
        """Whether to save at this step, counted since the beginning of the run."""
        return self.every_steps is not None and step % self.every_steps == 0

    def late(self, minutes: float) -> bool:
        """Whether to save so many minutes after the last checkpoint."""
        return self.every_minutes is not None and minutes >= self.every_minutes
