"""Train any number of layers from one pass of a frozen language model."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mxd.data import ActivationBatch, ActivationStream, Document, special_token_ids
from mxd.errors import UserError
from mxd.host import MLPSite, check_device, compiled_blocks, find_site
from mxd.layers import Provenance, take_statistics
from mxd.training.build import build_students
from mxd.training.geometry import GeometryTracker
from mxd.training.kept_memory import kept_memory
from mxd.training.metrics_log import MetricsLog, check_trackers
from mxd.training.precision import autocast
from mxd.training.progress import OnProgress, Reporter
from mxd.training.recipe import Recipe
from mxd.training.record import record_of
from mxd.training.run import Run, student_folder
from mxd.training.run_folder import check_free, write_run, writing
from mxd.training.starts import check_starts
from mxd.training.stopwatch import Stopwatch
from mxd.training.stream import cache_record, open_stream
from mxd.training.student import Student
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
) -> Run:
    """Train the recipe's students on the model's activations, all from one pass of the model.

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

    Returns:
        The run: its layers, in evaluation mode, and its record.

    Raises:
        UserError: something about model, text, recipe or folder that the caller can mend. Nothing
            half-written is left behind.
    """
    _check(model, recipe, out, overwrite)
    model.eval()
    sites = resolve_sites(model, recipe)
    check_starts(recipe, sites)
    excluded = special_token_ids(tokenizer, recipe.text.exclusion.exclude_from_training)
    with ExitStack() as stack:
        if recipe.device == "cpu":
            stack.enter_context(kept_memory())
        if recipe.compile_model:
            stack.enter_context(compiled_blocks(model, sites))
        stream = stack.enter_context(
            closing(open_stream(model, tokenizer, recipe, sites, excluded, documents))
        )
        clock = Stopwatch()
        means = _mean_outputs(stream, clock)
        config = getattr(model, "config", None)
        base_model = base_model or getattr(config, "_name_or_path", None)
        revision = getattr(config, "_commit_hash", None)
        origin = Provenance(
            base_model=base_model, base_revision=revision, excluded_token_ids=excluded
        )
        students = build_students(recipe, sites, means, origin)
        record = record_of(recipe, sites, students, base_model, revision, command)
        record |= cache_record(recipe) | dict(further or {})
        folder = None if out is None else stack.enter_context(writing(Path(out), overwrite))
        return _run(recipe, stream, students, record, folder, clock, on_progress)


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
    recipe: Recipe,
    stream: ActivationStream,
    students: list[Student],
    record: dict[str, Any],
    folder: Path | None,
    clock: Stopwatch,
    on_progress: OnProgress | None,
) -> Run:
    """Train and store the students; on Ctrl-C too, as far as they were trained."""
    if folder is not None:
        write_run(folder, record)
    with MetricsLog(folder, recipe.trackers, recipe.to_dict()) as log:
        try:
            _train(recipe, stream, students, log, clock, on_progress)
        except KeyboardInterrupt:
            record["complete"] = False
            _finish(recipe, stream, students, record, folder)
            raise
        return _finish(recipe, stream, students, record, folder)


def _train(
    recipe: Recipe,
    stream: ActivationStream,
    students: list[Student],
    log: MetricsLog,
    clock: Stopwatch,
    on_progress: OnProgress | None,
) -> None:
    total = -(-recipe.tokens // recipe.optimizer.batch_tokens) * recipe.optimizer.batch_tokens
    tracker = GeometryTracker(
        students, recipe.track_experts, total // recipe.optimizer.batch_tokens
    )
    reporter = Reporter(students, log, tracker, clock, total, on_progress)
    step = tokens = 0
    batches = iter(stream)
    while True:
        with clock.harvesting():
            batch = next(batches, None)
        if batch is None:
            break
        step, tokens = step + 1, batch.tokens
        with clock.stepping():
            _step(recipe, students, batch)
        if step % recipe.log_every == 0 or tokens >= total:
            reporter(step, tokens)
    if step > reporter.step:  # the text ended before the budget
        reporter(step, tokens, last=True)
    logger.info("trained %d students for %d steps", len(students), step)


def _step(recipe: Recipe, students: list[Student], batch: ActivationBatch) -> None:
    device = torch.device(recipe.device)
    # In the buffer's type to the device, which need not be waited for, and wider only there.
    placed = {
        name: (x.to(device, non_blocking=True).float(), y.to(device, non_blocking=True).float())
        for name, (x, y) in batch.sites.items()
    }
    for student in students:
        if student.diverged:
            continue
        x, y = placed[student.site]
        fed = y if student.layer.reads == "output" else x
        student.step(fed, y, autocast(recipe.precision, device))


def _finish(
    recipe: Recipe,
    stream: ActivationStream,
    students: list[Student],
    record: dict[str, Any],
    folder: Path | None,
) -> Run:
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
