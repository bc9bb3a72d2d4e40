"""`mxd eval`: what a run's layers cost the model, and how they use their units."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mxd.cli._measure import (
    HELD_OUT,
    RANK_EXPERTS,
    EvaluationText,
    keep,
    measure,
    publish_report,
)
from mxd.cli._options import options
from mxd.cli._paths import check_json_target, write_json
from mxd.cli._places import place_flags
from mxd.cli._run import MODEL_OPTIONS, chosen_layers, open_with_model
from mxd.cli._screen import _one_line, console, show_figures, show_together
from mxd.cli._texts import chosen_texts, show_texts
from mxd.cli._types import COUNT, NAMES, with_config
from mxd.errors import CannotWriteError, UserError
from mxd.training import store_result

TEXT_OPTIONS: list[Any] = [
    click.option(
        "--text", multiple=True,
        help="Text to evaluate on, as in `mxd fit`; give it again for another.  "
        "[default: what the run held out]",
    ),
    click.option(
        "--held-out", is_flag=True, help="With --text: also evaluate on what the run held out."
    ),
    click.option("--text-column", help="Column that holds the text.  [default: as in the run]"),
    click.option(
        "--doc-column", help="Column that names the document.  [default: as in the run]"
    ),
    click.option("--text-name", help="Configuration of a data set.  [default: none]"),
    click.option("--text-split", help="Split of a data set.  [default: as in the run]"),
    click.option(
        "--skip-damaged", is_flag=True,
        help="Leave out damaged records, and what cannot be read of damaged files; each is named.",
    ),
]  # fmt: skip


@click.command("eval")
@click.argument("run", type=click.Path(path_type=Path))
@options(TEXT_OPTIONS)
@click.option(
    "--tokens", type=COUNT, default=200_000, show_default=True,
    help="Tokens of each text to evaluate on.",
)  # fmt: skip
@click.option(
    "--student", type=NAMES,
    help="With --text alone: layers by name, architecture, or a pattern of names such as "
    "'*-k16-*-s42'.  [default: all of the run]",
)  # fmt: skip
@click.option("--together", is_flag=True, help="Also put the layers of all sites in place at once.")
@click.option(
    "--rank-experts", type=click.IntRange(min=0), default=RANK_EXPERTS, show_default=True,
    help="Experts of each MxD whose singular values are computed; 0 leaves geometry out.",
)  # fmt: skip
@options(MODEL_OPTIONS)
@click.option(
    "--batch-contexts", type=COUNT, default=16, show_default=True,
    help="Contexts in a forward pass.",
)  # fmt: skip
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path),
    help="File for the figures; with several texts, a list of documents under `texts`.",
)  # fmt: skip
@with_config
def evaluate_run(run: Path, json_file: Path | None, **flags: Any) -> None:
    """Measure the layers of RUN on text that they were not trained on.

    Writes the figures into the run's folder (eval/, the layers' model cards, report.html) and
    prints them as a table. With several texts, each has its own file in eval/, one table shows
    them side by side, and model cards and report are of the first (the held-out one, if among
    them). With --student, only its figures in eval/ are written.
    """
    check_json_target(json_file)
    opened = open_with_model(run, **place_flags(flags))
    layers = chosen_layers(opened.run, flags["student"])
    texts = chosen_texts(opened, flags)
    if flags["student"] and any(text.name == HELD_OUT for text in texts):
        raise UserError(
            "got --student for the held-out text, whose figures are those of the whole run; "
            "expected --text with another; leave --student out"
        )
    screen = console()
    documents: list[dict[str, Any]] = []
    with _saying_what_is_kept(run, texts, documents):
        for text in texts:
            if len(texts) > 1:
                screen.print(f"Evaluating on {_one_line(text.described)} …", markup=False)
            document = measure(
                opened,
                text,
                layers=layers,
                tokens=flags["tokens"],
                together=flags["together"],
                rank_experts=flags["rank_experts"],
                screen=screen,
            )
            with _showing_what_is_not_kept(screen, document):
                if documents or flags["student"]:
                    store_result(opened.run, document, name=text.name)
                else:
                    keep(opened, document, text.name)
            documents.append(document)
    if len(documents) > 1 and not flags["student"]:
        publish_report(opened, documents[0])  # with the other texts
    write_json(json_file, documents[0] if len(documents) == 1 else {"texts": documents})
    show_figures(screen, documents[0])
    if len(documents) > 1:
        show_texts(screen, documents)
    show_together(screen, documents[0])
    if not flags["student"]:
        screen.print(f"Report: {run / 'report.html'}", markup=False)


@contextmanager
def _showing_what_is_not_kept(screen: Console, document: dict[str, Any]) -> Iterator[None]:
    """Figures that took an hour are at least seen when the disk has no room for them."""
    try:
        yield
    except CannotWriteError:
        show_figures(screen, document)
        raise


@contextmanager
def _saying_what_is_kept(
    run: Path, texts: Sequence[EvaluationText], documents: Sequence[dict[str, Any]]
) -> Iterator[None]:
    """On Ctrl-C, where the figures on the texts that are done are."""
    try:
        yield
    except KeyboardInterrupt:
        if not documents:
            raise
        done = ", ".join(f"{text.name}.json" for text in texts[: len(documents)])
        raise click.Abort(
            f"the figures of the texts that are done are in {run}/eval: {done}"
        ) from None
