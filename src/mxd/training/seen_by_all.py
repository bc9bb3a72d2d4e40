"""Whether the folder of a run is one and the same for all of its processes."""

import secrets
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

from mxd._durable_files import replace_text
from mxd.errors import UserError
from mxd.training.team import Team

SEEN_SECONDS = 30.0
"""How long a file of one process may take to be seen by the others of its run."""


def check_seen_by_all(folder: Path, team: Team) -> None:
    """Make sure that the folder is the same one for all processes: the first puts a mark into it.

    Raises:
        UserError: on all of them, where it is not.
    """
    if team.size == 1:
        return
    mark = team.told(lambda: secrets.token_hex(8))
    path = folder / f".seen-by-all-{mark}"

    def put() -> str:
        for old in folder.glob(".seen-by-all-*"):  # what a process left that was killed
            old.unlink(missing_ok=True)
        replace_text(path, mark)
        return ""

    team.told(put)
    seen = team.listed([_appears(path, mark)])
    if team.speaks:
        path.unlink(missing_ok=True)
    unlike = [str(rank) for rank, sees in enumerate(seen) if not sees]
    if unlike:
        raise UserError(
            f"got {folder}, which is another folder on rank {', '.join(unlike)} than on rank 0, "
            "expected one that all processes see; give one on a file system that they share"
        )


def _appears(path: Path, content: str) -> bool:
    """Whether a file is there; one that another host wrote may take some time to be seen."""
    limit = monotonic() + SEEN_SECONDS
    while True:
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == content:
                return True
        if monotonic() > limit:
            return False
        sleep(0.05)
