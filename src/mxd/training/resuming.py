"""Find what a run can go on from, and go on."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mxd.errors import UserError
from mxd.training.checkpoints import (
    Checkpoint,
    check_changes,
    check_names,
    delete_after,
    differences,
    newest_good,
    remove_unfinished,
    saved_steps,
)
from mxd.training.loop import Loop
from mxd.training.recipe import Recipe
from mxd.training.record import versions

logger = logging.getLogger(__name__)

_MISFITS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What a state raises that does not fit the run; UserError is a ValueError."""


def base_of(recipe: Recipe, sites: dict[str, str]) -> dict[str, Any]:
    """What every checkpoint says of its run.

    Args:
        recipe: the run's recipe.
        sites: fingerprints of the base model's MLPs by their names.
    """
    return {
        "recipe": recipe.to_dict(),
        "sites": sites,
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }


def usable_checkpoints(
    folder: Path, base: dict[str, Any], accept: Sequence[str]
) -> Iterator[Checkpoint]:
    """The checkpoints that a run can go on from, the newest first.

    What is damaged is named in the log and left out.

    Args:
        folder: the run's folder.
        base: what `base_of` says of it now.
        accept: names of fields of the recipe whose change is meant.

    Raises:
        UserError: the recipe or the model has changed.
    """
    check_names(base["recipe"], accept)
    for checkpoint in newest_good(folder):
        content = checkpoint.content
        if content.get("sites") != base["sites"]:
            raise UserError(
                f"the run in {folder} was begun on another model: its MLPs have other weights; "
                "give the model of before, or start a new run"
            )
        check_changes(differences(content.get("recipe"), base["recipe"]), accept)
        yield checkpoint


def restore(loop: Loop, folder: Path, checkpoints: Iterable[Checkpoint]) -> Checkpoint:
    """Put a run into the state of the first of these checkpoints that fits it.

    Args:
        loop: the run, freshly begun.
        folder: its folder.
        checkpoints: what `usable_checkpoints` gave.

    Raises:
        UserError: none does.
    """
    for checkpoint in checkpoints:
        try:
            loop.load_state(checkpoint.content, _Files(checkpoint))
        except _MISFITS as error:
            logger.warning(
                "checkpoint %s is left out: it does not fit the run (%s: %s)",
                checkpoint.folder,
                type(error).__name__,
                error,
            )
            continue
        _say(checkpoint)
        remove_unfinished(folder)
        delete_after(folder, checkpoint.step)
        return checkpoint
    raise none_usable(folder)


def none_usable(folder: Path) -> UserError:
    """What to say where there are checkpoints and all are damaged."""
    return UserError(
        f"none of the checkpoints in {folder} can be used, expected one that is whole; start anew "
        "with --overwrite instead of --resume"
    )


def has_checkpoints(folder: Path) -> bool:
    """Whether a run has any checkpoint, good or damaged."""
    return bool(saved_steps(folder))


class _Files(Mapping[str, Mapping[str, torch.Tensor]]):
    """A checkpoint's tensors; each file is read when it is asked for, and not kept."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __getitem__(self, name: str) -> dict[str, torch.Tensor]:
        return self._checkpoint.tensors(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.content["files"])

    def __len__(self) -> int:
        return len(self._checkpoint.content["files"])


def _say(checkpoint: Checkpoint) -> None:
    logger.warning("resumed from step %d", checkpoint.step)
    before = {**checkpoint.content["versions"], "threads": checkpoint.content["threads"]}
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
