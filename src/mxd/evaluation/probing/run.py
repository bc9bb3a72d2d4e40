"""Probe the layers of a run for a task (paper, section on sparse probing)."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from mxd.errors import UserError
from mxd.evaluation._layers import most_positions, some_sparse_layers
from mxd.evaluation.probing.features import SiteFeatures, collect
from mxd.evaluation.probing.fits import Selection
from mxd.evaluation.probing.layer import Baselines, GroupSize, Setting, UnitProbes, baselines
from mxd.evaluation.probing.load import load_task
from mxd.evaluation.probing.resampling import Resamples, interval
from mxd.evaluation.probing.results import Probe, ProbedLayer
from mxd.evaluation.probing.task import LEAST_TRAINING_EXAMPLES, Example, Task, check_classes
from mxd.evaluation.probing.tokens import LEAST_TOKENS, Rows, tokenise_task
from mxd.host import graft
from mxd.layers import Layer, SparseLayer

_DENSE_TRAINING_ROWS = 20_000
"""Dense values of more training rows than these are not kept: words are many."""
_logger = logging.getLogger(__name__)


def probe(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    layers: Mapping[str, Mapping[str, Layer]],
    task: Task | str | os.PathLike[str],
    *,
    group_sizes: Sequence[GroupSize] = (1, 2, 5, 16, "all"),
    selection: Literal["train", "paper", "both"] = "train",
    candidates: int = 100,
    bootstrap: int = 1000,
    seed: int = 42,
    batch_texts: int = 32,
    on_layer: Callable[[Probe], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Ask how well single units and small groups of them tell a task's classes apart.

    For each class against the rest, `candidates` units are tried: those with the largest signed
    difference between the class means on the training part. Each gets a logistic regression of its
    own (L2, balanced classes, newton-cholesky, 200 iterations), and the best one is reported.

    Args:
        model: the base model.
        tokenizer: its tokenizer.
        layers: layers by site and name; those without units are passed over.
        task: a task from `load_task`, or what that takes.
        group_sizes: the k for which one regression is fitted on k units together; `all` for all.
        selection: `train` chooses the best unit by F1 on the training part, `paper` on the
            held-out part, as the paper does; `both` reports both.
        candidates: single units to try for each class.
        bootstrap: resamples of the test part for confidence intervals.
        seed: seed of random units and resamples.
        batch_texts: texts in a forward pass.
        on_layer: called after each layer with everything found so far.
        on_progress: called with the texts run through the model and all texts.

    Raises:
        UserError: nothing to probe, layers that do not fit the model, or too few examples.
    """
    if selection not in ("train", "paper", "both"):
        raise UserError(f"got selection {selection!r}, expected train, paper or both; choose one")
    chosen = some_sparse_layers(layers, "to probe")
    for site, of in layers.items():
        for layer in of.values():
            with graft(model, {site: layer}):  # widths and base model are checked here
                layer.eval()
    task = task if isinstance(task, Task) else load_task(task, seed=seed)
    room = (most_positions(model) or 2**31) - (tokenizer.bos_token_id is not None)
    rows = tokenise_task(task, tokenizer, room)
    classes, left_out = _check_rows(task, rows)
    result = _started(task, rows, left_out, selection, seed)
    features = collect(
        model,
        chosen,
        rows,
        dense_rows=_dense_rows(rows, seed),
        bos_token_id=tokenizer.bos_token_id,
        batch_texts=batch_texts,
        on_progress=on_progress,
    )
    setting = _setting(rows, classes, group_sizes, selection, candidates, bootstrap, seed)
    for site, of in chosen.items():
        _probe_site(site, of, features.pop(site), setting, result, on_layer)
    return result


def _started(task: Task, rows: Rows, left_out: dict[str, int], selection: str, seed: int) -> Probe:
    """The result before any layer is probed."""
    return Probe(
        task=task.name,
        source=task.source,
        level=task.level,
        selection=selection,
        seed=seed,
        train_texts=rows.texts["train"],
        test_texts=rows.texts["test"],
        skipped_texts=rows.skipped_texts,
        skipped_words=rows.skipped_words,
        classes_left_out=left_out,
    )


def _setting(
    rows: Rows,
    classes: list[str],
    group_sizes: Sequence[GroupSize],
    selection: str,
    candidates: int,
    bootstrap: int,
    seed: int,
) -> Setting:
    test = [name for name, train in zip(rows.clusters, rows.is_train, strict=True) if not train]
    chooses: Selection = "paper" if selection == "paper" else "train"
    return Setting(
        classes=classes,
        labels=np.array(rows.labels),
        training=rows.training,
        resamples=Resamples(test, bootstrap, seed),
        candidates=candidates,
        group_sizes=tuple(group_sizes),
        selection=chooses,
        seed=seed,
    )


def _probe_site(
    site: str,
    layers: Mapping[str, SparseLayer],
    features: SiteFeatures,
    setting: Setting,
    result: Probe,
    on_layer: Callable[[Probe], None] | None,
) -> None:
    dense = baselines(features, setting)
    live = [
        int((units[setting.training].max(0).toarray() > 0).sum())
        for units in features.units.values()
    ]
    width = min(live) if len(live) > 1 else None
    for name, layer in layers.items():
        probes = UnitProbes(features.units.pop(name), setting)
        result.layers.append(_probe_layer(site, name, layer, probes, dense, width))
        if result.selection == "both":
            _add_paper(result.layers[-1], probes)
        if on_layer is not None:
            on_layer(result)


def _probe_layer(
    site: str,
    name: str,
    layer: SparseLayer,
    probes: UnitProbes,
    dense: Baselines,
    equal_width: int | None,
) -> ProbedLayer:
    classes, resampled = probes.figures(probes.best())
    random_f1, random_unit_f1 = probes.random()
    live = int(probes.live.sum())
    return ProbedLayer(
        name=name,
        site=site,
        architecture=layer.config.architecture,
        k=layer.config.k,
        width=layer.config.n_units,
        seed=layer.provenance.seed,
        live_units=live,
        candidates=min(probes.setting.candidates, live),
        classes=classes,
        f1_mean=float(np.mean([each.f1 for each in classes.values()])),
        f1_mean_ci=interval(resampled),
        f1_by_k=probes.by_group_size(),
        **vars(dense),
        random_f1=random_f1,
        random_unit_f1=random_unit_f1,
        equal_width=equal_width,
        f1_equal_candidates=None if equal_width is None else probes.equal_candidates(equal_width),
        f1_resampled=resampled,
    )


def _add_paper(layer: ProbedLayer, probes: UnitProbes) -> None:
    layer.paper_classes, resampled = probes.figures(probes.best("paper"))
    layer.paper_f1_mean = float(np.mean([each.f1 for each in layer.paper_classes.values()]))
    layer.paper_f1_mean_ci = interval(resampled)


def _check_rows(task: Task, rows: Rows) -> tuple[list[str], dict[str, int]]:
    """The classes that are still large enough once short texts are skipped."""
    try:
        classes, left_out = check_classes(_counted(task, rows))
    except UserError as error:
        if not rows.skipped_texts:
            raise
        raise UserError(
            f"{error} ({rows.skipped_texts} {task.rows} were skipped: shorter than "
            f"{LEAST_TOKENS} tokens)"
        ) from None
    if rows.skipped_texts or rows.skipped_words:
        _logger.warning(
            "skipped %d %s and %d words of %s that are too short or too far from the start",
            rows.skipped_texts, task.rows, rows.skipped_words, task.source,
        )  # fmt: skip
    if left_out:
        _logger.warning(
            "left out the classes %s of %s, which have fewer than %d training examples or no test "
            "example", ", ".join(left_out), task.source, LEAST_TRAINING_EXAMPLES,
        )  # fmt: skip
    return classes, left_out


def _counted(task: Task, rows: Rows) -> Task:
    """The task with only the rows that are read: their labels and splits."""
    splits = ("test", "train")
    examples = tuple(
        Example("", (label,), splits[train])
        for label, train in zip(rows.labels, rows.is_train, strict=True)
    )
    return Task(name=task.name, source=task.source, level=task.level, examples=examples)


def _dense_rows(rows: Rows, seed: int) -> Any:
    """The test rows, and training rows of which no class is left with too few to fit a probe."""
    training, labels = np.flatnonzero(rows.training), np.array(rows.labels)
    order = np.random.default_rng(seed).permutation(training)
    kept, rest = np.split(order, [_DENSE_TRAINING_ROWS])
    for name in np.unique(labels[rest]):
        lacking = max(0, LEAST_TRAINING_EXAMPLES - int((labels[kept] == name).sum()))
        kept = np.concatenate([kept, rest[labels[rest] == name][:lacking]])
    return np.sort(np.concatenate([kept, np.flatnonzero(~rows.training)]))
