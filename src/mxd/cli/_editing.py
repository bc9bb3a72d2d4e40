"""`mxd edit --study`: the texts, the study of every layer, and its table."""

import glob
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxd.cli._edits import is_given
from mxd.cli._paths import lasting, write_json
from mxd.cli._places import place_flags
from mxd.cli._run import Opened, chosen_layers, command_line, open_with_model
from mxd.cli._screen import _one_line, console
from mxd.cli._types import COUNT, INTEGERS, NAMES
from mxd.data import DocumentSource, open_documents, special_token_ids
from mxd.errors import UserError
from mxd.evaluation import EditingStudy, StudyText, editing_study, study_text
from mxd.evaluation.editing import RANKINGS, SIZES
from mxd.training import evaluation_documents, first_documents, held_out_documents, store_result

_OF_STUDY = ("target", "keep")
_OF_MEASURING = ("tokens", "rank", "sizes", "random_draws", "seed", "batch_contexts")
_OF_EDITS = (
    "expert", "remove", "replace_by", "where", "unless", "edit", "out", "overwrite", "no_check",
)  # fmt: skip
_TEXT_HELP = "a file, folder, glob, data set or python-stdlib.  [default: none]"

STUDY_OPTIONS: list[Any] = [
    click.option("--study", is_flag=True, help="Measure how selective edits are; save no layer."),
    click.option("--target", help=f"With --study: text that is to suffer, {_TEXT_HELP}"),
    click.option("--keep", help=f"With --study: text that is to stay as it is, {_TEXT_HELP}"),
    click.option(
        "--tokens", type=COUNT, default=50_000, show_default=True,
        help="Tokens of each text: one half to rank experts on, the other to measure on.",
    ),
    click.option(
        "--rank", type=NAMES, default=",".join(RANKINGS), show_default=True,
        help="Rankings: attribution, probing; the first is what random experts are matched to.",
    ),
    click.option(
        "--sizes", type=INTEGERS, default=",".join(map(str, SIZES)), show_default=True,
        help="How many experts are scaled at once, each in turn.",
    ),
    click.option(
        "--random-draws", type=click.IntRange(min=0), default=5, show_default=True,
        help="Draws of random experts, and of random ones of the same firing frequency.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), default=42, show_default=True,
        help="Seed of those draws.",
    ),
    click.option(
        "--batch-contexts", type=COUNT, default=16, show_default=True,
        help="Contexts in a forward pass.",
    ),
]  # fmt: skip


def check_study_flags(flags: dict[str, Any], given: set[str]) -> None:
    """Refuse flags of the one use of the verb in the other.

    Args:
        flags: all flags.
        given: names of those that were typed, or stand in the file of --config.

    Raises:
        UserError: such flags, or a study without its two texts.
    """
    stray = [name for name in (_OF_EDITS if flags["study"] else _OF_STUDY) if is_given(flags[name])]
    if not flags["study"]:
        stray += [name for name in _OF_MEASURING if name in given]
    if stray:
        told = "without it" if flags["study"] else "together with it"
        name = stray[0].replace("_", "-")
        raise UserError(f"got --{name}, expected {told}: --study is a measurement")
    missing = [name for name in _OF_STUDY if flags[name] is None]
    if flags["study"] and missing:
        raise UserError(f"got --study without --{missing[0]}, expected both texts; add it")
    if flags["study"] and lasting(flags["target"]) == lasting(flags["keep"]):
        raise UserError(
            f"got {flags['target']} as --target and as --keep, expected two texts; change one"
        )


def run_study(folder: Path, json_file: Path | None, flags: dict[str, Any]) -> None:
    """Study the layers of a run, keep the document after each, and print the table."""
    opened, screen = (
        open_with_model(folder, **place_flags(flags)),
        console(),
    )
    layers = chosen_layers(opened.run, flags["student"], flags["site"])
    target, keep = (_text(opened, flags[name], flags) for name in _OF_STUDY)
    name = f"editing-{_file_name(target.text)}-{_file_name(keep.text)}"
    document: dict[str, Any] = {}

    def store(study: EditingStudy) -> None:
        document.update({"kind": "editing", "command": command_line(), **study.to_dict()})
        store_result(opened.run, document, name=name)

    try:
        editing_study(
            opened.model,
            layers,
            target,
            keep,
            scale=0.0 if flags["scale"] is None else flags["scale"],
            rankings=flags["rank"],
            sizes=flags["sizes"],
            random_draws=flags["random_draws"],
            seed=flags["seed"],
            excluded_token_ids=special_token_ids(
                opened.tokenizer, opened.run.recipe.text.exclusion.exclude_from_evaluation
            ),
            on_progress=_lines(screen),
            on_layer=store,
        )
    except KeyboardInterrupt:
        if not document:
            raise
        raise click.Abort(
            f"the figures of the layers that are done are in {folder / 'eval' / name}.json"
        ) from None
    write_json(json_file, document)
    show_editing(screen, document)
    screen.print(f"Figures: {folder / 'eval' / name}.json", markup=False)


def _text(opened: Opened, source: str, flags: dict[str, Any]) -> StudyText:
    lasted = lasting(source)
    documents, described = _documents(opened, lasted)
    return study_text(
        documents,
        opened.tokenizer,
        tokens=flags["tokens"],
        options=opened.run.recipe.text.contexts,
        contexts_per_batch=flags["batch_contexts"],
        description=described,
    )


def _documents(opened: Opened, source: str) -> tuple[DocumentSource, str]:
    """Documents that the run was not trained on, as far as that can be told, and what they are."""
    text, seed = opened.run.recipe.text, opened.run.recipe.seed
    if source == text.eval_source:
        return evaluation_documents(text, seed), source
    documents = open_documents(source, replace(text.options, dataset_name=None))
    if not _overlap(source, text.source):
        return first_documents(documents), source
    if text.eval_source is not None:
        raise UserError(
            f"got the text {source}, which the run was trained on, expected another, such as "
            f"{text.eval_source}, which it was not"
        )
    if source == text.source:
        documents = open_documents(source, text.options)
    return held_out_documents(documents, text, seed), f"held-out part of {source}"


def _overlap(source: str, trained_on: str) -> bool:
    return source == trained_on or bool(_files(source) & _files(trained_on))


def _files(source: str) -> set[Path]:
    """The files of a source, none of a data set's id."""
    path = Path(source)
    found = [path] if path.exists() else [Path(p) for p in glob.glob(source, recursive=True)]  # noqa: PTH207
    return {
        file.resolve()
        for each in found
        for file in (each.rglob("*") if each.is_dir() else [each])
        if file.is_file()
    }


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", Path(text).name)[:60].strip("._") or "text"


def _lines(screen: Console) -> Callable[[str, int, int], None]:
    """Plain lines, about ten for each layer."""

    def say(name: str, done: int, total: int) -> None:
        if done == total or done * 10 // total > (done - 1) * 10 // total:
            screen.print(Text(_one_line(f"{name}: measured {done} of {total} batches")))

    return say


def show_editing(screen: Console, document: dict[str, Any]) -> None:
    """Rises and selectivity by layer, ranking and number of units; draws are averaged."""
    table = Table(
        title=Text(
            f"Rise of the cross-entropy (nats/token) with experts scaled by {document['scale']:g}, "
            f"on {_one_line(document['target']['text'])} and on "
            f"{_one_line(document['keep']['text'])}"
        ),
        title_justify="left",
    )
    for header in ("layer", "chosen by", "m", "target", "keep", "selectivity", "±95%", "ratio"):
        left = header in ("layer", "chosen by")
        table.add_column(header, justify="left" if left else "right", no_wrap=left)
    for layer in document["layers"]:
        first = _one_line(layer["name"])
        groups: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
        for entry in layer["edits"]:
            groups.setdefault((entry["ranking"], entry["m"]), []).append(entry)
        for kind, effect in layer["ablation"].items():
            if effect is not None:
                groups[f"whole layer at {kind}", None] = [effect]
        for (ranking, m), entries in groups.items():
            cells = (first, ranking.replace("_", " "), "" if m is None else str(m))
            table.add_row(*(Text(cell) for cell in (*cells, *_figures(entries))))
            first = ""
        table.add_section()
    screen.print(table)


def _figures(entries: list[dict[str, Any]]) -> tuple[str, ...]:
    def mean(key: str) -> float | None:
        known = [entry[key] for entry in entries if entry[key] is not None]
        return sum(known) / len(known) if known else None

    error = mean("selectivity_se") if len(entries) == 1 else None
    ratio = mean("ratio") if len(entries) == 1 else None
    rises = (mean("target_rise"), mean("keep_rise"), mean("selectivity"))
    return (
        *("–" if rise is None else f"{rise:+.4f}" for rise in rises),
        "–" if error is None else f"{1.96 * error:.4f}",
        "–" if ratio is None else f"{ratio:.1f}",
    )
