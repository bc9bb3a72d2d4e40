"""`mxd eval`: what a run's layers cost the model, and how they use their units."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mxd.cli._options import options
from mxd.cli._paths import check_json_target, lasting, write_json
from mxd.cli._run import MODEL_OPTIONS, command_line, open_with_model
from mxd.cli._screen import console, evaluation_progress, show_figures, show_together
from mxd.cli._types import COUNT, with_config
from mxd.data import DocumentSource, SpreadContexts, open_documents, pack, special_token_ids
from mxd.errors import UserError
from mxd.evaluation import evaluate
from mxd.report import publish
from mxd.training import Run, evaluation_documents, first_documents, store_evaluation


@click.command("eval")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--text", help="Text to evaluate on, as in `mxd fit`.  [default: what the run held out]"
)
@click.option("--text-column", help="Column that holds the text.  [default: as in the run]")
@click.option("--doc-column", help="Column that names the document.  [default: as in the run]")
@click.option("--text-name", help="Configuration of a data set.  [default: none]")
@click.option("--text-split", help="Split of a data set.  [default: as in the run]")
@click.option(
    "--tokens", type=COUNT, default=200_000, show_default=True, help="Tokens to evaluate on."
)
@click.option("--together", is_flag=True, help="Also put the layers of all sites in place at once.")
@options(MODEL_OPTIONS)
@click.option(
    "--batch-contexts", type=COUNT, default=16, show_default=True,
    help="Contexts in a forward pass.",
)  # fmt: skip
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the figures.")
@with_config
def evaluate_run(run: Path, json_file: Path | None, **flags: Any) -> None:
    """Measure the layers of RUN on text that they were not trained on.

    Writes the figures into the run's folder (eval/, the layers' model cards, report.html) and
    prints them as a table.
    """
    check_json_target(json_file)
    opened = open_with_model(run, model=flags["model"], device=flags["device"])
    found, host, tokenizer = opened.run, opened.model, opened.tokenizer
    text = found.recipe.text
    source = None if flags["text"] is None else lasting(flags["text"])
    documents, described = _documents(found, source, flags)
    screen = console()
    figures = evaluate(
        host,
        found.layers,
        SpreadContexts(
            pack(documents, tokenizer, text.contexts),
            flags["tokens"],
            contexts_per_batch=flags["batch_contexts"],
        ),
        tokens=flags["tokens"],
        bos_token_id=tokenizer.bos_token_id,
        excluded_token_ids=special_token_ids(tokenizer, text.exclusion.exclude_from_evaluation),
        together=flags["together"],
        text=described,
        on_progress=evaluation_progress(screen, flags["tokens"]),
    )
    document = figures.to_dict()
    _keep(found, document, source)
    write_json(json_file, document)
    show_figures(screen, document)
    show_together(screen, document)
    screen.print(f"Report: {run / 'report.html'}", markup=False)


def _documents(run: Run, source: str | None, flags: dict[str, Any]) -> tuple[DocumentSource, str]:
    """The documents to evaluate on, none of which the run was trained on, and what they are."""
    text, seed = run.recipe.text, run.recipe.seed
    kept = text.eval_source or f"held-out part of {text.source}"
    if source is None:
        return evaluation_documents(text, seed), kept
    if source == text.source:
        if text.eval_source is not None:
            raise UserError(
                f"got --text {source}, which the run was trained on; leave --text out to evaluate "
                f"on {kept}, or give another text"
            )
        return evaluation_documents(text, seed), kept
    given = {
        "column": flags["text_column"],
        "doc_column": flags["doc_column"],
        "split": flags["text_split"],
    }
    options = replace(
        text.options,
        dataset_name=flags["text_name"],
        **{name: value for name, value in given.items() if value is not None},
    )
    return first_documents(open_documents(source, options)), source


def _keep(run: Run, document: dict[str, Any], source: str | None) -> None:
    name = "held-out" if source is None else f"text-{Path(source).name}"
    store_evaluation(run, document, name=name)
    assert run.folder is not None
    publish(
        run.folder,
        title=f"{run.base_model}: {', '.join(run.layers)}",
        record=run.record,
        evaluation=document,
        command=command_line(),
    )
