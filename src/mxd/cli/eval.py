"""`mxd eval`: what a run's layers cost the model, and how they use their units."""

from pathlib import Path
from typing import Any

import click
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mxd.cli._paths import check_json_target, check_writable, lasting, write_json
from mxd.cli._screen import console, show_figures
from mxd.cli._types import COUNT, DEVICE, with_config
from mxd.data import SpreadContexts, open_documents, pack, special_token_ids
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
def evaluate_run(
    run: Path,
    text: str | None,
    tokens: int,
    together: bool,
    model: str | None,
    device: str,
    batch_contexts: int,
    json_file: Path | None,
) -> None:
    """Measure the layers of RUN on held-out text.

    Writes the figures into the run's folder (eval/, the layers' model cards, report.html) and
    prints them as a table.
    """
    check_json_target(json_file)
    found = open_run(run)
    check_writable(run)
    host, tokenizer = _base_model(found, model, device)
    for layer in (layer for students in found.layers.values() for layer in students.values()):
        layer.to(device)
    recipe = found.recipe
    source = None if text is None else lasting(text)
    documents = (
        evaluation_documents(recipe.text, recipe.seed)
        if source is None
        else first_documents(open_documents(source, recipe.text.options))
    )
    screen = console()
    figures = evaluate(
        host,
        found.layers,
        SpreadContexts(
            pack(documents, tokenizer, recipe.text.contexts),
            tokens,
            contexts_per_batch=batch_contexts,
        ),
        tokens=tokens,
        bos_token_id=tokenizer.bos_token_id,
        excluded_token_ids=special_token_ids(
            tokenizer, recipe.text.exclusion.exclude_from_evaluation
        ),
        together=together,
    )
    document = figures.to_dict()
    _keep(found, document, source)
    write_json(json_file, document)
    show_figures(screen, document)
    for entry in document["together"]:
        screen.print(
            f"{entry['name']} at {len(entry['sites'])} sites at once: Δ cross-entropy "
            f"{entry['delta_cross_entropy']:+.4f} ± "
            f"{1.96 * (entry['delta_cross_entropy_se'] or 0):.4f}",
            markup=False,
        )
    screen.print(f"Report: {run / 'report.html'}", markup=False)


def _base_model(
    run: Run, name: str | None, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer that a run's layers are for, or those of another name."""
    if name is not None:
        return load_model(resolve_model(name), device=device), load_tokenizer(resolve_model(name))
    if run.base_model is None:
        raise UserError(f"run {run.folder} does not say its base model; give it with --model")
    path, revision = resolve_model(run.base_model), run.record["base_model"].get("revision")
    try:
        return load_model(path, device=device, revision=revision), load_tokenizer(
            path, revision=revision
        )
    except UserError as error:
        raise UserError(
            f"the base model of run {run.folder} is not to be had: {error}; or say with --model "
            "where it is"
        ) from None


def _keep(run: Run, document: dict[str, Any], source: str | None) -> None:
    held_out = run.recipe.text.eval_source or f"held-out part of {run.recipe.text.source}"
    store_evaluation(
        run,
        document,
        name="held-out" if source is None else f"text-{Path(source).name}",
        text=source or held_out,
    )
    assert run.folder is not None
    publish(
        run.folder,
        title=f"{run.base_model}: {', '.join(run.layers)}",
        record=run.record,
        evaluation=document,
    )
