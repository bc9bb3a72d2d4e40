"""What is damaged in a text: named once, counted, and left out where that is asked for."""

import logging
from dataclasses import dataclass

from mxd.errors import UserError

MOST_NAMED = 100
"""Damaged files and records of a source that are named; more are only counted."""
_logger = logging.getLogger(__name__)


class DamagedError(UserError):
    """A file or a record is damaged, while others may be good.

    Args:
        said: where, what was expected, and how to mend it.
    """

    def __init__(self, said: str) -> None:
        super().__init__(
            f"{said}; or leave out what is damaged with --skip-damaged (TextOptions.skip_damaged)"
        )
        self.said = said


@dataclass
class Tally:
    """What one pass over a source left out."""

    files: int = 0
    """Files that could not be read to their end."""
    records: int = 0
    """Single records."""


class Damages:
    """Tells a user what is left out, once for all passes over a source.

    Args:
        source: what the user would call the source.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._named: set[str] = set()
        self._told: Tally | None = None

    def leave_out(self, error: DamagedError, *, what: str) -> None:
        """Name something damaged.

        Args:
            error: what is wrong with it.
            what: what is left out for it.
        """
        if error.said in self._named or len(self._named) >= MOST_NAMED:
            return
        self._named.add(error.said)
        _logger.warning("left out %s: %s", what, error.said)
        if len(self._named) == MOST_NAMED:
            _logger.warning("more damage in %s is counted, and not named", self._source)

    def tell(self, tally: Tally) -> None:
        """Say at the end of a pass how much it left out, unless the last one said the same."""
        if tally in (self._told, Tally()):
            return
        self._told = tally
        _logger.warning(
            "left out %d damaged records and the rest of %d damaged files in all of %s",
            tally.records,
            tally.files,
            self._source,
        )
