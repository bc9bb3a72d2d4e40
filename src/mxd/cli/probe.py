"""`mxd probe`: how well single units of a run's layers tell the classes of a task apart."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxd.cli._options import options
from mxd.cli._paths import check_json_target, write_json
from mxd.cli._places import place_flags
from mxd.cli._run import (
    MODEL_OPTIONS,
    SITE_OPTION,
    STUDENT_OPTION,
    chosen_layers,
    command_line,
    open_with_model,
)
from mxd.cli._screen import Pace, _one_line, console
from mxd.cli._types import COUNT, Listed, with_config
from mxd.evaluation.probing import HUB_TASKS, Probe, load_task, probe
from mxd.training import store_result


def _group_size(part: str) -> int | str:
    if part == "all":
        return part
    if int(part) < 1:
        raise ValueError
    return int(part)


_PROBING: list[Any] = [
    click.option(
        "--task", required=True,
        help=f"A file of JSON lines (.jsonl, .jsonl.gz) with text and label, or tokens and tags; "
        f"or {', '.join(HUB_TASKS)} from the hub (experimental).  [required]",
    ),
    click.option(
        "--task-data", type=click.Path(path_type=Path),
        help="Local copy of a named task's data set.  [default: the hub]",
    ),
    click.option(
        "--limit", type=COUNT, default=10_000, show_default=True,
        help="Texts or sentences to use, both splits together.",
    ),
    click.option(
        "--take", type=click.Choice(["first", "last"]),
        help="End of long texts to read.  [default: as the task has it, or first]",
    ),
    click.option(
        "--k", type=Listed(_group_size, "whole numbers of at least 1, or all"),
        default="1,2,5,16,all", show_default=True,
        help="Numbers of units to probe with together.",
    ),
    click.option(
        "--selection", type=click.Choice(["train", "paper", "both"]), default="train",
        show_default=True,
        help="Choose the best unit on the training part, on the held-out part as the paper does, "
        "or report both.",
    ),
    click.option(
        "--candidates", type=COUNT, default=100, show_default=True,
        help="Single units to try for each class.",
    ),
    click.option(
        "--bootstrap", type=COUNT, default=1000, show_default=True,
        help="Resamples for the 95 % intervals.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), default=42, show_default=True,
        help="Seed of splits, random units and resamples.",
    ),
    click.option(
        "--batch-texts", type=COUNT, default=32, show_default=True,
        help="Texts in a forward pass.",
    ),
]  # fmt: skip


@click.command("probe")
@click.argument("run", type=click.Path(path_type=Path))
@options([*_PROBING, STUDENT_OPTION, SITE_OPTION, *MODEL_OPTIONS])
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the figures.")
@with_config
def probe_run(run: Path, json_file: Path | None, **flags: Any) -> None:
    """Ask which units of the layers of RUN tell the classes of a task apart.

    Writes the figures into the run's folder (eval/probe-TASK.json) after each layer and prints
    them as a table. An F1 says nothing without those of all dimensions of the MLP's input (dense)
    and of random units beside it.
    """
    check_json_target(json_file)
    task = load_task(
        flags["task"],
        data=flags["task_data"],
        limit=flags["limit"],
        take=flags["take"],
        seed=flags["seed"],
    )
    opened = open_with_model(run, **place_flags(flags))
    layers = chosen_layers(opened.run, flags["student"], flags["site"])
    screen = console()
    document: dict[str, Any] = {}

    def keep(figures: Probe) -> None:
        plain = figures.to_dict()
        document.update({"kind": plain.pop("kind"), "command": command_line(), **plain})
        store_result(opened.run, document, name=f"probe-{task.name}")
        _say_layer(screen, document["layers"][-1])

    with _keeping(run / "eval" / f"probe-{task.name}.json", document):
        probe(
            opened.model,
            opened.tokenizer,
            layers,
            task,
            group_sizes=flags["k"],
            selection=flags["selection"],
            candidates=flags["candidates"],
            bootstrap=flags["bootstrap"],
            seed=flags["seed"],
            batch_texts=flags["batch_texts"],
            on_layer=keep,
            on_progress=_progress(screen),
        )
    write_json(json_file, document)
    _show(screen, document)


@contextmanager
def _keeping(path: Path, document: dict[str, Any]) -> Iterator[None]:
    """Say on Ctrl-C what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if not document:
            raise
        raise click.Abort(f"{len(document['layers'])} layers are done, see {path}") from None


def _progress(screen: Console) -> Callable[[int, int], None]:
    pace = Pace()

    def say(done: int, total: int) -> None:
        if pace.is_due():
            left = pace.seconds_left(done, total)
            screen.print(f"read {done:,} of {total:,} texts, {left:.0f} s left")

    return say


def _say_layer(screen: Console, layer: dict[str, Any]) -> None:
    screen.print(
        Text(f"probed {_one_line(layer['name'])} at {_one_line(layer['site'])}: mean F1 ")
        + Text(_with_interval(layer["f1_mean"], layer["f1_mean_ci"]))
    )


def _show(screen: Console, document: dict[str, Any]) -> None:
    title = (
        f"{document['task']}: F1 of single units, {document['train_texts']:,} training and "
        f"{document['test_texts']:,} test {_rows(document)}, unit chosen on the "
        f"{'held-out' if document['selection'] == 'paper' else 'training'} part"
    )
    table = Table(title=Text(_one_line(title)), title_justify="left")
    sizes = list(document["layers"][0]["f1_by_k"])
    both = document["selection"] == "both"
    heads = ["mean F1 [95 %]", *(["chosen on test"] if both else [])]
    heads += [*(f"k={size}" for size in sizes), "random", "dimension", "dense"]
    table.add_column("layer", no_wrap=True)
    for head in heads:
        table.add_column(Text(head), justify="right")
    several = len({layer["site"] for layer in document["layers"]}) > 1
    for layer in document["layers"]:
        cells = [_with_interval(layer["f1_mean"], layer["f1_mean_ci"])]
        if both:
            cells.append(_with_interval(layer["paper_f1_mean"], layer["paper_f1_mean_ci"]))
        figures = [*layer["f1_by_k"].values()]
        figures += [layer["random_f1"], layer["neuron_f1"], layer["dense_f1"]]
        name = _one_line(layer["name"] + (f" at {layer['site']}" if several else ""))
        table.add_row(Text(name), *map(Text, [*cells, *(f"{each:.3f}" for each in figures)]))
    screen.print(table)
    _show_classes(screen, document)


def _show_classes(screen: Console, document: dict[str, Any]) -> None:
    for layer in document["layers"]:
        best = ", ".join(
            f"{name} {each['f1']:.3f} (unit {each['unit']})"
            for name, each in layer["classes"].items()
        )
        screen.print(Text(_one_line(f"{layer['name']}: {best}")))
    for each in document["differences"]:
        low, high = each["ci"]
        screen.print(
            Text(
                _one_line(
                    f"{each['ours']} − {each['theirs']}: {each['f1_mean_difference']:+.3f} "
                    f"[{low:+.3f}, {high:+.3f}]"
                )
            )
        )


def _rows(document: dict[str, Any]) -> str:
    return "texts" if document["level"] == "text" else "sentences"


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
