"""Train any number of layers from one pass of a frozen language model."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mxd.data import ActivationStream, Document, special_token_ids
from mxd.errors import UserError
from mxd.host import MLPSite, check_device, compiled_blocks, find_site
from mxd.layers import Provenance, take_statistics
from mxd.training.build import build_students
from mxd.training.checkpoints import Checkpoint, CheckpointOptions
from mxd.training.interruption import Interruption, on_signals
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
from mxd.training.stopwatch import Stopwatch
from mxd.training.stream import cache_record, open_stream
from mxd.training.summary import summarise

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
) -> Run:
    """Train the recipe's students on the model's activations, all from one pass of the model.

    Ctrl-C and SIGTERM save a run that has a folder, at the end of the step, and then its layers.

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

    Returns:
        The run: its layers, in evaluation mode, and its record.

    Raises:
        UserError: something about model, text, recipe or folder that the caller can mend. Nothing
            half-written is left behind, but what has a checkpoint stays.
        Interrupted: a signal stopped the run; it is saved.
    """
    begun = _begun(out, resume, overwrite)
    if begun is not None and begun.get("complete") is True:
        logger.warning("the run in %s is finished: there is nothing to resume", out)
        return open_run(Path(out or ""))
    _check(model, recipe, None if resume else out, overwrite)
    model.eval()
    sites = resolve_sites(model, recipe)
    check_starts(recipe, sites)
    excluded = special_token_ids(tokenizer, recipe.text.exclusion.exclude_from_training)
    goes_on = begun is not None and has_checkpoints(Path(out or ""))
    with ExitStack() as stack:
        interruption = stack.enter_context(on_signals()) if out is not None else Interruption()
        if recipe.device == "cpu":
            stack.enter_context(kept_memory())
        if recipe.compile_model:
            stack.enter_context(compiled_blocks(model, sites))
        stream = stack.enter_context(
            closing(open_stream(model, tokenizer, recipe, sites, excluded, documents))
        )
        clock = Stopwatch()
        # What the students start from is of no account to those that go on.
        means = _no_means(sites) if goes_on else _mean_outputs(stream, clock)
        config = getattr(model, "config", None)
        base_model = base_model or getattr(config, "_name_or_path", None)
        revision = getattr(config, "_commit_hash", None)
        origin = Provenance(
            base_model=base_model, base_revision=revision, excluded_token_ids=excluded
        )
        students = build_students(recipe, sites, means, origin)
        record = record_of(recipe, sites, students, base_model, revision, command)
        record |= cache_record(recipe) | dict(further or {})
        folder = None
        if out is not None and goes_on:
            record["resumed"] = (begun or {}).get("resumed", [])
            folder = stack.enter_context(continuing(Path(out)))
        elif out is not None:
            folder = stack.enter_context(writing(Path(out), overwrite or begun is not None))
        workers = Workers(recipe, stream, students, clock)
        base = base_of(recipe, record["base_model"]["sites"])
        usable = _usable(folder, base, accept_changes) if goes_on and folder is not None else None
        saver = Saver(folder, checkpoints or CheckpointOptions(), base, interruption)
        return _run(workers, record, folder, on_progress, saver, usable)


def _usable(
    folder: Path, base: dict[str, Any], accept_changes: Sequence[str]
) -> Iterator[Checkpoint]:
    """Checkpoints to go on from; that there is one is found out before anything is written."""
    usable = usable_checkpoints(folder, base, accept_changes)
    newest = next(usable, None)
    if newest is None:
        raise none_usable(folder)
    return chain([newest], usable)


def _check(model: nn.Module, recipe: Recipe, out: str | Path | None, overwrite: bool) -> None:
    """Find what is wrong before any work is done."""
    device = check_device(recipe.device)
    check_device(recipe.buffer.device)
    check_trackers(recipe.trackers)
    if out is not None:
        check_free(Path(out), overwrite)
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


def _begun(out: str | Path | None, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """The record of the run to go on with; None where there is none, or none is asked for."""
    if not resume:
        return None
    if out is None or overwrite:
        given = "without a folder" if out is None else "together with overwrite"
        raise UserError(
            f"got resume {given}, expected the folder of the run to go on with; give out alone"
        )
    return begun_run(Path(out))


def _no_means(sites: list[MLPSite]) -> dict[str, Tensor]:
    return {site.name: torch.zeros(site.d_out) for site in sites}


def _mean_outputs(stream: ActivationStream, clock: Stopwatch) -> dict[str, Tensor]:
    """The mean of y over the first buffer, for each site's name."""
    with clock.harvesting():
        first = stream.first_buffer()
    return {name: _mean(y) for name, (_, y) in first.items()}


def _mean(y: Tensor) -> Tensor:
    """The mean over tokens, summed in float64 without a second copy of the buffer."""
    total = sum((part.double().sum(0) for part in y.split(65_536)), torch.zeros(()).to(y.device))
    return (total / len(y)).float()


def _run(
    workers: Workers,
    record: dict[str, Any],
    folder: Path | None,
    on_progress: OnProgress | None,
    saver: Saver,
    usable: Iterator[Checkpoint] | None,
) -> Run:
    """Train and store the students; on Ctrl-C too, as far as they were trained."""
    recipe = workers.recipe
    with MetricsLog(folder, recipe.trackers, recipe.to_dict(), goes_on=usable is not None) as log:
        loop = Loop(workers, log, on_progress)
        if usable is not None and folder is not None:
            record["resumed"] = [*record["resumed"], restore(loop, folder, usable).step]
        if folder is not None:
            write_run(folder, record)
        try:
            with closing(saver), saver.stoppable():
                loop.run(saver)
        except KeyboardInterrupt:
            record["complete"] = False
            _finish(workers, record, folder)
            raise
        return _finish(workers, record, folder)


def _finish(workers: Workers, record: dict[str, Any], folder: Path | None) -> Run:
    recipe, stream, students = workers.recipe, workers.stream, workers.students
    buffer = stream.first_buffer()
    layers: dict[str, dict[str, Any]] = {}
    for student in students:
        layer = student.layer.eval()
        take_statistics(layer, *buffer[student.site])
        layer.provenance.training = summarise(student, recipe, stream)
        layers.setdefault(student.site, {})[student.name] = layer
        if folder is not None:
            layer.save_pretrained(student_folder(folder, student.site, student.name))
    record["data"] = {
        "fingerprint": stream.fingerprint,
        "epochs": stream.epoch,
        "tokens_trained": max(student.tokens for student in students),
    }
    record.setdefault("complete", True)
    if folder is not None:
        write_run(folder, record)
    return Run(recipe, layers, record, folder)
