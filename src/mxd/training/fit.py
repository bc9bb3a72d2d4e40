"""Train any number of layers from one pass of a frozen language model."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from mxd.data import Document, ShardedStream, special_token_ids
from mxd.host import MLPSite, compiled_blocks, find_site, placement_of
from mxd.layers import Provenance
from mxd.training.alike import check_alike
from mxd.training.base import base_of
from mxd.training.beginning import (
    Earlier,
    check_before,
    check_given,
    enter_folder,
    find_earlier,
    is_done,
    usable_by_all,
    with_shards,
)
from mxd.training.build import build_roster, check_layers
from mxd.training.checkpoints import Checkpoint, CheckpointOptions, saved_steps
from mxd.training.ending import finish
from mxd.training.interruption import Interrupted, Interruption, on_signals
from mxd.training.kept_memory import kept_memory
from mxd.training.loop import Loop, Workers
from mxd.training.metrics_log import MetricsLog
from mxd.training.progress import OnProgress
from mxd.training.recipe import Recipe
from mxd.training.record import record_of
from mxd.training.resuming import restore
from mxd.training.run import Run, open_run
from mxd.training.run_folder import write_run
from mxd.training.saver import Saver
from mxd.training.starts import check_starts
from mxd.training.statistics import mean_outputs
from mxd.training.stopwatch import Stopwatch
from mxd.training.stream import cache_record, open_shards
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
        model: a frozen causal language model from transformers, on the recipe's device or spread
            over several; its weights are not changed, and it is left in evaluation mode.
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
        The run: its layers, in evaluation mode, and its record. Of several processes none holds
        layers any more: `Run.each` and `open_run` read them from the folder.

    Raises:
        UserError: something about model, text, recipe or folder that the caller can mend. Nothing
            half-written is left behind, but what has a checkpoint stays.
        Interrupted: a signal stopped the run; it is saved.
    """
    team = open_team(layout)
    folder = None if out is None else Path(out)
    options = checkpoints or CheckpointOptions()
    check_given(recipe, options, resume, overwrite, accept_changes, team)
    earlier = find_earlier(folder, resume, overwrite, team)
    if folder is not None and is_done(folder, earlier.record, recipe, accept_changes):
        logger.warning("the run in %s is finished: there is nothing to resume", folder)
        return open_run(folder) if team.size == 1 else Run(recipe, {}, earlier.record or {}, folder)
    recipe = with_shards(recipe, team, earlier)
    check_before(model, recipe, None if resume else folder, overwrite, team)
    model.eval()
    sites = resolve_sites(model, recipe)
    check_starts(recipe, sites)
    check_layers(recipe, sites, team)
    origin = _origin(model, tokenizer, recipe, base_model)
    with ExitStack() as stack:
        interruption = stack.enter_context(on_signals()) if folder is not None else Interruption()
        if recipe.device == "cpu":
            stack.enter_context(kept_memory())
        if recipe.compile_model:
            stack.enter_context(compiled_blocks(model, sites))
        own = team.shards(recipe.text_shards or 1)
        excluded = origin.excluded_token_ids
        opened = open_shards(model, tokenizer, recipe, sites, excluded, documents, own, team)
        stream = stack.enter_context(closing(opened))
        workers = _workers(recipe, stream, sites, team, origin, earlier)
        record = record_of(recipe, sites, workers.roster, origin, command)
        record |= placement_of(model) | cache_record(recipe) | dict(further or {})
        if earlier.goes_on:
            record["resumed"] = earlier.resumed
        if folder is not None:
            enter_folder(stack, folder, earlier, overwrite, team)
        base: dict[str, Any] = {}  # what is not saved need not be told from others
        if folder is not None:
            base = base_of(recipe, record["base_model"]["sites"], model, tokenizer)
            check_alike(base, team.listed)
        usable = None
        if folder is not None and earlier.goes_on:
            usable = usable_by_all(folder, base, accept_changes, team)
        saver = Saver(folder, options, base, interruption, team)
        return _run(workers, record, folder, on_progress, saver, usable)


def _origin(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, base_model: str | None
) -> Provenance:
    """What the layers will say of where they come from."""
    config = getattr(model, "config", None)
    return Provenance(
        base_model=base_model or getattr(config, "_name_or_path", None),
        base_revision=getattr(config, "_commit_hash", None),
        excluded_token_ids=special_token_ids(
            tokenizer, recipe.text.exclusion.exclude_from_training
        ),
    )


def _workers(
    recipe: Recipe,
    stream: ShardedStream,
    sites: list[MLPSite],
    team: Team,
    origin: Provenance,
    earlier: Earlier,
) -> Workers:
    """The students as they start, and what they are trained with."""
    clock = Stopwatch()
    # What the students start from is of no account to those that go on.
    means = {site.name: torch.zeros(site.d_out) for site in sites}
    if not earlier.goes_on:
        with clock.harvesting():
            means = mean_outputs(stream, {site.name: site.d_out for site in sites}, team)
    roster = build_roster(recipe, sites, means, origin, team)
    widths = {site.name: (site.d_in, site.d_out) for site in sites}
    return Workers(recipe, stream, roster, widths, team, clock)


def resolve_sites(model: nn.Module, recipe: Recipe) -> list[MLPSite]:
    """The sites that a recipe names, each once.

    Raises:
        UserError: a layer out of range, a block without an MLP, or no such module.
    """
    wanted: list[int | str] = [*recipe.layers, *recipe.sites]
    found = [find_site(model, which) for which in wanted]
    return list({site.name: site for site in found}.values())


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
        for student in workers.roster.own:
            team.check_equal(student.layer, student.companions)
        if kept is not None:
            write_run(kept, record)
        try:
            with saver.at_work():
                loop.run(saver)
        except BaseException as error:
            # Several processes store layers together, or not at all: others may be gone. Before
            # the first step there is nothing to store.
            if isinstance(error, Interrupted) or (team.size == 1 and loop.step):
                record["complete"] = False
                with saver.storing():
                    _finish_after(error, workers, record, folder)
            raise
        with saver.storing():
            return finish(workers, record, folder)


def _finish_after(
    error: BaseException, workers: Workers, record: dict[str, Any], folder: Path | None
) -> None:
    """Store what was learnt before an error, which is the one to be told of whatever happens."""
    try:
        finish(workers, record, folder)
    except Exception as second:
        if isinstance(error, KeyboardInterrupt):
            raise
        logger.warning("the layers could not be stored either: %s", second)
        return
    if folder is not None and not isinstance(error, KeyboardInterrupt):
        steps = saved_steps(folder)
        on = f"; it is saved at step {steps[0]}: go on with --resume" if steps else ""
        logger.warning("the layers, as far as they were trained, are in %s%s", folder, on)
