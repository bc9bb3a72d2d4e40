"""What is settled before a run begins or goes on, alike on all of its processes."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mxd.errors import UserError
from mxd.host import check_device, has_several_processes, input_device, is_spread
from mxd.training.alike import check_alike, parts_of
from mxd.training.base import accepted_changes
from mxd.training.checkpoints import Checkpoint, CheckpointOptions
from mxd.training.metrics_log import check_trackers
from mxd.training.recipe import Recipe
from mxd.training.record import versions
from mxd.training.resuming import has_checkpoints, none_usable, usable_checkpoints
from mxd.training.run_folder import begun_run, check_free, continuing, writing
from mxd.training.seen_by_all import check_seen_by_all
from mxd.training.stream import text_shards
from mxd.training.team import Team

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Earlier:
    """What an earlier attempt at a run has left."""

    record: dict[str, Any] | None = None
    """Its run.json; None where none was begun, or none is gone on with."""
    goes_on: bool = False
    """Whether it was ever saved, so that there is something to go on from."""

    @property
    def resumed(self) -> list[int]:
        """The steps that attempts before this one went on from."""
        return list((self.record or {}).get("resumed", []))


def find_earlier(out: str | Path | None, resume: bool, overwrite: bool, team: Team) -> Earlier:
    """What there is to go on with, as the first process finds it.

    Raises:
        UserError: no folder to resume in, `overwrite` beside `resume`, something else in the
            folder, or several processes without one.
    """
    if team.size > 1 and out is None:
        raise UserError(
            "got several processes without a folder, expected one that all of them see; give out"
        )

    def look() -> str:
        return json.dumps(asdict(_earlier(out, resume, overwrite)))

    return Earlier(**json.loads(team.told(look)))


def _earlier(out: str | Path | None, resume: bool, overwrite: bool) -> Earlier:
    if not resume:
        return Earlier()
    if out is None or overwrite:
        given = "without a folder" if out is None else "together with overwrite"
        raise UserError(
            f"got resume {given}, expected the folder of the run to go on with; give out alone"
        )
    record = begun_run(Path(out))
    return Earlier(record, record is not None and has_checkpoints(Path(out)))


def is_done(
    folder: Path, record: dict[str, Any] | None, recipe: Recipe, accept_changes: Sequence[str]
) -> bool:
    """Whether a run has come to its end and is what is asked for: nothing is left to be done.

    Args:
        folder: the run's folder.
        record: its run.json; None where no run was begun.
        recipe: what is asked for.
        accept_changes: fields of the recipe that may differ from the run's.

    Raises:
        UserError: it came to its end with another recipe, and the changes are not accepted; or
            they are, and it kept no checkpoint to go on from.
    """
    if record is None or record.get("complete") is not True:
        return False
    there, here = record.get("recipe"), recipe.to_dict()
    if here["text_shards"] is None and isinstance(there, dict):
        here["text_shards"] = there.get("text_shards")
    if not accepted_changes(there, here, accept_changes):
        return True
    if not has_checkpoints(folder):
        raise UserError(
            f"the run in {folder} is finished and kept no checkpoint, expected one to go on from "
            "with another recipe; start a new run"
        )
    return False


def check_given(
    recipe: Recipe,
    checkpoints: CheckpointOptions,
    resume: bool,
    overwrite: bool,
    accept_changes: Sequence[str],
    team: Team,
) -> None:
    """Make sure that all processes were asked for the same, before they divide the work.

    Raises:
        UserError: on all of them, where they were not.
    """
    if team.size == 1:
        return
    said: dict[str, Any] = {"threads": torch.get_num_threads()}
    said |= {"resume": resume, "overwrite": overwrite, "accept_changes": list(accept_changes)}
    said |= parts_of("recipe", recipe.to_dict()) | parts_of("checkpoints", asdict(checkpoints))
    check_alike(said | parts_of("versions", versions()), team.listed)


def with_shards(recipe: Recipe, team: Team, earlier: Earlier) -> Recipe:
    """The recipe with the number of text shards that it comes to; one alone need not be named."""
    before = (earlier.record or {}).get("recipe")
    count = text_shards(recipe, team.size, before if isinstance(before, dict) else None)
    if count < team.size and recipe.activations is None and team.speaks:
        logger.warning(
            "%d text shards for %d processes: some of them run no text through the language model",
            count,
            team.size,
        )
    if count == 1 and team.size == 1:
        return recipe
    return replace(recipe, text_shards=count)


def check_before(
    model: nn.Module, recipe: Recipe, new: Path | None, overwrite: bool, team: Team
) -> None:
    """Find what is wrong before any work is done.

    Args:
        model: the language model.
        recipe: what to train.
        new: the folder of a run that is not gone on with.
        overwrite: whether an earlier run in it may be replaced.
        team: the processes of the run.

    Raises:
        UserError: a device, tracker or folder that cannot be used, or a model on another device.
    """
    team.check(recipe)
    device = check_device(recipe.device)
    check_device(recipe.buffer.device)
    check_trackers(recipe.trackers)
    if new is not None:

        def free() -> str:
            check_free(new, overwrite)
            return ""

        team.told(free)
    found = input_device(model)
    if found.type != device.type and not is_spread(model):
        raise UserError(
            f"got a model on {found} and a recipe for {device}, expected the same; load the model "
            "there or change the recipe's device"
        )
    if has_several_processes(model):
        _check_in_parts(recipe)


def _check_in_parts(recipe: Recipe) -> None:
    """Refuse what a model cannot do whose passes all processes have to make together."""
    if recipe.activations is not None:
        raise UserError(
            "got tensor parallelism with a cache of activations, expected one of the two: a cache "
            "needs no passes of the model; leave tensor_parallel out"
        )
    if recipe.buffer.prefetch:
        raise UserError(
            f"got prefetch={recipe.buffer.prefetch} with tensor parallelism, expected 0: the "
            "processes make every pass together, between steps; leave prefetch out"
        )


def enter_folder(
    stack: ExitStack, folder: Path, earlier: Earlier, overwrite: bool, team: Team
) -> None:
    """Enter a run's folder, which the first process makes and keeps others out of.

    Args:
        stack: what leaves the folder again.
        folder: the folder.
        earlier: what is in it to go on with.
        overwrite: whether an earlier run in it may be replaced.
        team: the processes of the run.

    Raises:
        UserError: it cannot be written to, or another process is at work in it.
    """
    held = (
        continuing(folder)
        if earlier.goes_on
        else writing(folder, overwrite or earlier.record is not None, unsaved=not overwrite)
    )

    def enter() -> str:
        stack.enter_context(held)
        return ""

    team.told(enter)
    check_seen_by_all(folder, team)


def usable_by_all(
    folder: Path, base: dict[str, Any], accept_changes: Sequence[str], team: Team
) -> Iterator[Checkpoint]:
    """Checkpoints to go on from; that there is one is found out before anything is written.

    Processes other than the first have none: it tells them which one is taken.

    Raises:
        UserError: there is none, or the recipe or the model has changed.
    """
    found: list[Iterator[Checkpoint]] = []

    def look() -> str:
        usable = usable_checkpoints(folder, base, accept_changes)
        newest = next(usable, None)
        if newest is None:
            raise none_usable(folder)
        found.append(chain([newest], usable))
        return ""

    team.told(look)
    return found[0] if found else iter(())
