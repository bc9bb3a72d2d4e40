"""Find what a run can go on from, and go on."""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from mxd.errors import CannotWriteError, UserError
from mxd.training.base import check_base
from mxd.training.checkpoints import (
    Checkpoint,
    check_names,
    checkpoint_folder,
    newest_good,
    put_aside_after,
    remove_unfinished,
    saved_steps,
    unchecked,
)
from mxd.training.loop import Loop
from mxd.training.micro_batches import is_out_of_memory
from mxd.training.record import versions
from mxd.training.team import Team

logger = logging.getLogger(__name__)

_MISFITS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What a state raises that does not fit the run, or cannot be read; UserError is a ValueError."""


def usable_checkpoints(
    folder: Path, base: dict[str, Any], accept: Sequence[str]
) -> Iterator[Checkpoint]:
    """The checkpoints that a run can go on from, the newest first.

    What is damaged or cannot be read is named in the log and left out.

    Args:
        folder: the run's folder.
        base: what `mxd.training.base.base_of` says of it now.
        accept: names of fields of the recipe whose change is meant.

    Raises:
        UserError: the recipe, the model, its tokenizer or the cache has changed.
    """
    check_names(base["recipe"], accept)
    for checkpoint in newest_good(folder):
        check_base(checkpoint.content, base, accept, folder)
        yield checkpoint


def restore(loop: Loop, folder: Path, checkpoints: Iterator[Checkpoint], team: Team) -> Checkpoint:
    """Put a run into the state of the first of these checkpoints that fits it.

    Args:
        loop: the run, freshly begun.
        folder: its folder.
        checkpoints: what `usable_checkpoints` gave; the first process's count.
        team: the processes of the run, which all take the same one.

    Raises:
        UserError: none does.
    """
    while True:
        held: list[Checkpoint] = []

        def newest() -> str:
            held.extend(islice(checkpoints, 1))  # noqa: B023 (it is called at once)
            if not held:  # noqa: B023
                raise none_usable(folder)
            return str(held[0].step)  # noqa: B023

        step = int(team.told(newest))
        checkpoint = held[0] if held else None
        if team.all(_fits(loop, folder, step, checkpoint)):
            break
    found = held[0] if held else unchecked(folder, step)
    if team.speaks:
        _say(found)
        remove_unfinished(folder)
        put_aside_after(folder, step)
    return found


def _fits(loop: Loop, folder: Path, step: int, checkpoint: Checkpoint | None) -> bool:
    """Whether a run could be put into a state; only the first process compares checksums."""
    try:
        loop.load_state(checkpoint or unchecked(folder, step))
    except CannotWriteError:  # the disk's fault, or the log's, and not the checkpoint's
        raise
    except _MISFITS as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise  # an earlier one takes no less
        logger.warning(
            "checkpoint %s is left out: it does not fit the run (%s: %s)",
            checkpoint_folder(folder, step),
            type(error).__name__,
            error,
        )
        return False
    return True


def none_usable(folder: Path) -> UserError:
    """What to say where there are checkpoints and none is good; the log says why each is not."""
    return UserError(
        f"none of the checkpoints in {folder} can be used, for the reasons named above, expected "
        "one that is whole; start anew with --overwrite instead of --resume"
    )


def has_checkpoints(folder: Path) -> bool:
    """Whether a run has any checkpoint, good or damaged."""
    return bool(saved_steps(folder))


def _say(checkpoint: Checkpoint) -> None:
    logger.warning("resumed from step %d", checkpoint.step)
    said = checkpoint.content.get("versions")
    before = {
        **(said if isinstance(said, dict) else {}),
        "threads": checkpoint.content.get("threads"),
    }
    now = {**versions(), "threads": torch.get_num_threads()}
    unlike = [
        f"{name} {before.get(name)}, now {now[name]}"
        for name in now
        if before.get(name) != now[name]
    ]
    if unlike:
        logger.warning(
            "this is not where the run was saved (%s): its numbers may differ from those of an "
            "uninterrupted run by rounding",
            "; ".join(unlike),
        )
