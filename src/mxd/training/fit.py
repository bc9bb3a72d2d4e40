"""Train any number of layers from one pass of a frozen language model."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mxd.data import Document, ShardedStream, common_fingerprint, special_token_ids
from mxd.errors import CannotWriteError, UserError
from mxd.host import MLPSite, check_device, compiled_blocks, find_site
from mxd.layers import Layer, Provenance
from mxd.training.build import build_roster
from mxd.training.checkpoints import Checkpoint, CheckpointOptions
from mxd.training.interruption import Interrupted, Interruption, on_signals
from mxd.training.kept_memory import kept_memory
from mxd.training.loop import Loop, Workers
from mxd.training.metrics_log import MetricsLog, check_trackers
from mxd.training.progress import OnProgress
from mxd.training.recipe import Recipe
from mxd.training.record import record_of
from mxd.training.resuming import (
    base_of,
    has_checkpoints,
    none_usable,
    restore,
    usable_checkpoints,
)
from mxd.training.run import Run, open_run, student_folder
from mxd.training.run_folder import begun_run, check_free, continuing, write_run, writing
from mxd.training.saver import Saver
from mxd.training.starts import check_starts
from mxd.training.statistics import mean_outputs, store_means
from mxd.training.stopwatch import Stopwatch
from mxd.training.stream import cache_record, open_shards, text_shards
from mxd.training.summary import TextRead, summarise
from mxd.training.team import Team, open_team

logger = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    documents: Iterable[Document] | None = None,
    base_model: str | None = None,
    command: Sequence[str] | None = None,
    further: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    checkpoints: CheckpointOptions | None = None,
    resume: bool = False,
    accept_changes: Sequence[str] = (),
    layout: str | None = None,
) -> Run:
    """Train the recipe's students on the model's activations, all from one pass of the model.

    Ctrl-C and SIGTERM save a run that has a folder, at the end of the step, and then its layers.

    Within `mxd.training.distributed.world`, under torchrun, all processes call this alike, with a
    folder that all of them see; the first one writes what there is once in a run.

    Args:
        model: a frozen causal language model from transformers, on the recipe's device; its
            weights are not changed, and it is left in evaluation mode.
        tokenizer: its tokenizer.
        recipe: what to train, on what, and how.
        out: folder to write the run to; None keeps it in memory.
        overwrite: replace an earlier run in that folder.
        documents: documents to train on instead of the recipe's text; it is up to the caller that
            evaluation documents are not among them. Not together with a cache of activations.
        base_model: name to record for the base model; None takes the one transformers knows.
        command: the command line to record.
        further: more entries for the record, plain data: `notes`, sentences that reports show, and
            `preset`.
        on_progress: called after every `log_every` steps.
        checkpoints: how often the run is saved into its folder, and how much of it is kept; None
            saves it when it is interrupted.
        resume: go on from the newest good checkpoint in the folder, to the very same layers that
            an uninterrupted run gives; begin where there is none yet. A finished run is loaded.
        accept_changes: fields of the recipe that may differ from the run's, such as
            `optimizer.default_lr`.
        layout: how several processes divide the work, such as `data=2,experts=2`; None makes them
            data parallel. It does not belong to the run, which can go on with another.

    Returns:
        The run: its layers, in evaluation mode, and its record. Of several processes the first has
        all layers, read from the folder; the others have those that they stored.

    Raises:
        UserError: something about model, text, recipe or folder that the caller can mend. Nothing
            half-written is left behind, but what has a checkpoint stays.
        Interrupted: a signal stopped the run; it is saved.
    """
    team = open_team(layout)
    if team.size > 1 and out is None:
        raise UserError(
            "got several processes without a folder, expected one that all of them see; give out"
        )
    before = json.loads(team.told(lambda: json.dumps(_begun(out, resume, overwrite))))
    begun: dict[str, Any] | None = before["record"]
    if begun is not None and begun.get("complete") is True:
        logger.warning("the run in %s is finished: there is nothing to resume", out)
        return open_run(Path(out or ""))
    recipe = _with_shards(recipe, team, begun)
    _check(model, recipe, None if resume else out, overwrite, team)
    model.eval()
    sites = resolve_sites(model, recipe)
    check_starts(recipe, sites)
    excluded = special_token_ids(tokenizer, recipe.text.exclusion.exclude_from_training)
    goes_on = bool(before["goes_on"])
    with ExitStack() as stack:
        interruption = stack.enter_context(on_signals()) if out is not None else Interruption()
        if recipe.device == "cpu":
            stack.enter_context(kept_memory())
        if recipe.compile_model:
            stack.enter_context(compiled_blocks(model, sites))
        own = team.shards(recipe.text_shards or 1)
        opened = open_shards(model, tokenizer, recipe, sites, excluded, documents, own)
        stream = stack.enter_context(closing(opened))
        clock = Stopwatch()
        # What the students start from is of no account to those that go on.
        means = _no_means(sites) if goes_on else _means(stream, sites, team, clock)
        config = getattr(model, "config", None)
        base_model = base_model or getattr(config, "_name_or_path", None)
        revision = getattr(config, "_commit_hash", None)
        origin = Provenance(
            base_model=base_model, base_revision=revision, excluded_token_ids=excluded
        )
        roster = build_roster(recipe, sites, means, origin, team)
        record = record_of(recipe, sites, roster, base_model, revision, command)
        record |= cache_record(recipe) | dict(further or {})
        folder = None
        if out is not None and goes_on:
            record["resumed"] = (begun or {}).get("resumed", [])
            folder = _entered(stack, continuing(Path(out)), Path(out), team)
        elif out is not None:
            held = writing(Path(out), overwrite or begun is not None)
            folder = _entered(stack, held, Path(out), team)
        widths = {site.name: (site.d_in, site.d_out) for site in sites}
        workers = Workers(recipe, stream, roster, widths, team, clock)
        base = base_of(recipe, record["base_model"]["sites"])
        usable = None
        if goes_on and folder is not None:
            usable = _usable(folder, base, accept_changes, team)
        saver = Saver(folder, checkpoints or CheckpointOptions(), base, interruption, team)
        return _run(workers, record, folder, on_progress, saver, usable)


def _entered(
    stack: ExitStack, held: AbstractContextManager[Path], folder: Path, team: Team
) -> Path:
    """The run's folder, which the first process makes and keeps others out of."""

    def enter() -> str:
        stack.enter_context(held)
        return ""

    team.told(enter)
    return folder


def _with_shards(recipe: Recipe, team: Team, begun: dict[str, Any] | None) -> Recipe:
    """The recipe with the number of text shards that it comes to; one alone need not be named."""
    before = None if begun is None else begun.get("recipe")
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


def _usable(
    folder: Path, base: dict[str, Any], accept_changes: Sequence[str], team: Team
) -> Iterator[Checkpoint]:
    """Checkpoints to go on from; that there is one is found out before anything is written.

    Processes other than the first have none: it tells them which one is taken.
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


def _check(
    model: nn.Module, recipe: Recipe, out: str | Path | None, overwrite: bool, team: Team
) -> None:
    """Find what is wrong before any work is done."""
    team.check(recipe)
    device = check_device(recipe.device)
    check_device(recipe.buffer.device)
    check_trackers(recipe.trackers)
    if out is not None:
        folder = Path(out)

        def free() -> str:
            check_free(folder, overwrite)
            return ""

        team.told(free)
    found = next(model.parameters()).device
    if found.type != device.type:
        raise UserError(
            f"got a model on {found} and a recipe for {device}, expected the same; load the model "
            "there or change the recipe's device"
        )


def resolve_sites(model: nn.Module, recipe: Recipe) -> list[MLPSite]:
    """The sites that a recipe names, each once.

    Raises:
        UserError: a layer out of range, a block without an MLP, or no such module.
    """
    wanted: list[int | str] = [*recipe.layers, *recipe.sites]
    found = [find_site(model, which) for which in wanted]
    return list({site.name: site for site in found}.values())


def _begun(out: str | Path | None, resume: bool, overwrite: bool) -> dict[str, Any]:
    """The record of the run to go on with, if any is asked for, and whether it was ever saved."""
    if not resume:
        return {"record": None, "goes_on": False}
    if out is None or overwrite:
        given = "without a folder" if out is None else "together with overwrite"
        raise UserError(
            f"got resume {given}, expected the folder of the run to go on with; give out alone"
        )
    record = begun_run(Path(out))
    return {"record": record, "goes_on": record is not None and has_checkpoints(Path(out))}


def _no_means(sites: list[MLPSite]) -> dict[str, Tensor]:
    return {site.name: torch.zeros(site.d_out) for site in sites}


def _means(
    stream: ShardedStream, sites: list[MLPSite], team: Team, clock: Stopwatch
) -> dict[str, Tensor]:
    with clock.harvesting():
        return mean_outputs(stream, {site.name: site.d_out for site in sites}, team)


def _run(
    workers: Workers,
    record: dict[str, Any],
    folder: Path | None,
    on_progress: OnProgress | None,
    saver: Saver,
    usable: Iterator[Checkpoint] | None,
) -> Run:
    """Train and store the students; on Ctrl-C too, as far as they were trained."""
    recipe, team = workers.recipe, workers.team
    kept, trackers = (folder, recipe.trackers) if team.speaks else (None, ())
    with MetricsLog(kept, trackers, recipe.to_dict(), goes_on=usable is not None) as log:
        loop = Loop(workers, log, on_progress)
        if usable is not None and folder is not None:
            record["resumed"] = [*record["resumed"], restore(loop, folder, usable, team).step]
        if kept is not None:
            write_run(kept, record)
        try:
            with saver.at_work():
                loop.run(saver)
        except (KeyboardInterrupt, CannotWriteError) as error:  # there may be room for layers still
            # Several processes store layers together, or not at all: others may be gone.
            if team.size == 1 or isinstance(error, Interrupted):
                record["complete"] = False
                _finish(workers, record, folder)
            raise
        return _finish(workers, record, folder)


def _finish(workers: Workers, record: dict[str, Any], folder: Path | None) -> Run:
    recipe, team, own = workers.recipe, workers.team, workers.roster.own
    store_means(own, workers.stream, {name: i for name, (i, _) in workers.widths.items()}, team)
    read = _text_read(workers)
    layers: dict[str, dict[str, Layer]] = {}
    for student in own:
        student.layer.eval().provenance.training = summarise(student, recipe, read)
        layer = team.whole(student.layer, student.companions)
        if layer is None:  # another process stores it
            continue
        layers.setdefault(student.site, {})[student.name] = layer
        if folder is not None:
            layer.save_pretrained(student_folder(folder, student.site, student.name))
    record["data"] = {
        "fingerprint": read.fingerprint,
        "epochs": read.epoch,
        "tokens_trained": max(team.listed([student.tokens for student in own])),
    }
    record.setdefault("complete", True)
    team.all(True)  # all layers are there
    if folder is not None and team.speaks:
        write_run(folder, record)
        if team.size > 1:
            layers = open_run(folder).layers
    return Run(recipe, layers, record, folder)


def _text_read(workers: Workers) -> TextRead:
    stream = workers.stream
    found = workers.team.listed([[stream.epoch, list(stream.fingerprints.items())]])
    fingerprints = {int(shard): text for _, pairs in found for shard, text in pairs}
    return TextRead(max(epoch for epoch, _ in found), common_fingerprint(fingerprints))
