"""`mxd eval`: what a run's layers cost the model, and how they use their units."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mxd.cli._paths import check_json_target, check_writable, lasting, write_json
from mxd.cli._screen import console, evaluation_progress, show_figures, show_together
from mxd.cli._types import COUNT, DEVICE, with_config
from mxd.data import DocumentSource, SpreadContexts, open_documents, pack, special_token_ids
from mxd.demo import resolve_model
from mxd.errors import UserError
from mxd.evaluation import evaluate
from mxd.host import load_model, load_tokenizer
from mxd.report import publish
from mxd.training import Run, evaluation_documents, first_documents, open_run, store_evaluation


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
@click.option("--model", help="Base model, where it is not where the run says.")
@click.option(
    "--device", type=DEVICE, default="cpu", show_default=True, help="Such as cpu, cuda, cuda:1."
)
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
    found = open_run(run)
    check_writable(run)
    host, tokenizer = _base_model(found, flags["model"], flags["device"])
    for layer in (layer for students in found.layers.values() for layer in students.values()):
        layer.to(flags["device"])
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


def _base_model(
    run: Run, name: str | None, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer that a run's layers are for, or those of another name."""
    dtype = run.recipe.dtype
    if name is not None:
        path = resolve_model(name)
        return load_model(path, device=device, dtype=dtype), load_tokenizer(path)
    if run.base_model is None:
        raise UserError(f"run {run.folder} does not say its base model; give it with --model")
    path, revision = resolve_model(run.base_model), run.record["base_model"].get("revision")
    try:
        host = load_model(path, device=device, dtype=dtype, revision=revision)
        return host, load_tokenizer(path, revision=revision)
    except UserError as error:
        raise UserError(
            f"the base model of run {run.folder} is not to be had: {error}; or say with --model "
            "where it is"
        ) from None


def _keep(run: Run, document: dict[str, Any], source: str | None) -> None:
    name = "held-out" if source is None else f"text-{Path(source).name}"
    store_evaluation(run, document, name=name)
    assert run.folder is not None
    publish(
        run.folder,
        title=f"{run.base_model}: {', '.join(run.layers)}",
        record=run.record,
        evaluation=document,
        command=shlex.join(["mxd", *sys.argv[1:]]),
    )
