"""Run a model over text and keep what it gives in a cache."""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from mxd._held_folder import held_folder
from mxd.data.cache.manifest import Manifest
from mxd.data.cache.sizing import Plan, check_room, plan
from mxd.data.cache.writer import CacheWriter, check_target, discard, opened_cache, stored_bytes
from mxd.data.harvest import Harvest, Harvester
from mxd.data.packing import Contexts
from mxd.errors import UserError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HarvestProgress:
    """How far a harvest is."""

    tokens: int
    """Tokens in the cache or on their way into it."""
    total: int
    """Tokens that it will hold, unless the text ends before."""
    new_tokens: int
    """Those of them that went through the model now, rather than in an earlier attempt."""
    seconds: float
    """Time since the model's first pass now."""
    bytes: int
    """Size of the finished shards."""
    planned_bytes: int
    """Size that all shards will have, at most."""


OnHarvest = Callable[[HarvestProgress], None]


def fill_cache(
    folder: Path,
    asked: Manifest,
    harvest: Harvest,
    contexts: Iterable[Contexts],
    *,
    overwrite: bool = False,
    ahead: int = 0,
    device: torch.device | str = "cpu",
    on_progress: OnHarvest | None = None,
) -> Manifest:
    """Harvest into a folder; goes on after the last good shard of an interrupted harvest.

    The text of finished shards is read and packed again, but does not go through the model.

    Args:
        folder: the cache's folder.
        asked: what is to be harvested: a manifest without shards.
        harvest: one pass of the model.
        contexts: the text.
        overwrite: start anew, whatever is there.
        ahead: passes made ahead in a background thread.
        device: where the model runs.
        on_progress: told at the beginning and after every pass of the model.

    Returns:
        The manifest of the complete cache.

    Raises:
        UserError: the folder holds another harvest, the text has changed, the disk has no room.
    """
    aim = plan(asked)
    found = check_target(folder, asked, overwrite=overwrite)
    if found is None or not found.complete:
        there = stored_bytes(folder) if found is None else found.bytes
        check_room(folder, aim.bytes - there)
    with held_folder(folder, work="harvest"):
        manifest = opened_cache(folder, asked, overwrite=overwrite)
        if manifest.complete:
            return manifest
        writer = CacheWriter(folder, manifest)
        try:
            _fill(writer, aim, harvest, contexts, ahead, torch.device(device), on_progress)
        except Exception:
            if found is None and not writer.manifest.shards:  # nothing to go on with
                discard(folder)
            raise
        return writer.manifest


def _fill(
    writer: CacheWriter,
    aim: Plan,
    harvest: Harvest,
    contexts: Iterable[Contexts],
    ahead: int,
    device: torch.device,
    on_progress: OnHarvest | None,
) -> None:
    """Harvest what is missing, and say that the cache is complete."""
    manifest, done = writer.manifest, writer.passes
    source = Harvester(
        harvest,
        contexts,
        contexts_per_pass=manifest.contexts_per_pass,
        dtype=getattr(torch, manifest.dtype),
        excluded_token_ids=(),
        repeat=False,
        least_tokens=0,
        limit=(aim.passes - done) * manifest.pass_tokens,
        ahead=ahead,
        device=device,
        keep_on=torch.device("cpu"),
        skip=done,
    )
    if done:
        _logger.info("going on after %d tokens that are in the cache already", manifest.tokens)
    started, before, new = time.perf_counter(), manifest.tokens, 0

    def say() -> None:
        if on_progress is not None:
            seconds, size = time.perf_counter() - started, writer.manifest.bytes
            on_progress(HarvestProgress(before + new, aim.tokens, new, seconds, size, aim.bytes))

    say()
    if done < aim.passes:
        with closing(iter(source)) as passes:
            for rows in passes:
                if new == 0 and not writer.follows(rows, source.fingerprint):
                    raise _other_text()
                writer.add(rows)
                new += len(rows.token_ids)
                if before + new < aim.tokens:
                    say()
        if new == 0 and done and source.fingerprint != manifest.data_fingerprint:
            raise _other_text()
    writer.finish(aim.ended_because if writer.passes >= aim.passes else "text")
    if new:
        say()


def _other_text() -> UserError:
    return UserError(
        "got text that is not what the finished shards were harvested from, expected the same to "
        "go on; bring the text back, or start anew with --overwrite"
    )
