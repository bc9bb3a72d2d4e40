"""Evaluate a run's layers on a text, keep the figures with the run, and publish its report."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from mxd.cli._run import Opened, command_line
from mxd.cli._screen import evaluation_progress
from mxd.data import DocumentSource, SpreadContexts, pack, special_token_ids
from mxd.evaluation import evaluate, measure_units, unit_documents
from mxd.layers import Layer
from mxd.report import publish
from mxd.training import evaluation_documents, store_evaluation

HELD_OUT = "held-out"
"""Name of the file in eval/ that holds the figures on the held-out text."""
RANK_EXPERTS = 64


@dataclass(frozen=True)
class EvaluationText:
    """A text to evaluate on."""

    name: str
    """Name of the file in eval/ for its figures."""
    described: str
    """What it is, in words."""
    contexts: SpreadContexts
    """Its contexts."""


def held_out_text(opened: Opened, *, tokens: int, batch_contexts: int = 16) -> EvaluationText:
    """What the run kept for evaluation.

    Raises:
        UserError: it cannot be read, or holds too few tokens.
    """
    text, seed = opened.run.recipe.text, opened.run.recipe.seed
    documents = evaluation_documents(text, seed)
    described = text.eval_source or f"held-out part of {text.source}"
    return as_text(opened, documents, HELD_OUT, described, tokens, batch_contexts)


def as_text(
    opened: Opened,
    documents: DocumentSource,
    name: str,
    described: str,
    tokens: int,
    batch_contexts: int,
) -> EvaluationText:
    """Documents as contexts of the run's kind, spread over more text than is asked for."""
    packed = pack(documents, opened.tokenizer, opened.run.recipe.text.contexts)
    spread = SpreadContexts(packed, tokens, contexts_per_batch=batch_contexts)
    return EvaluationText(name, described, spread)


def measure(
    opened: Opened,
    text: EvaluationText,
    *,
    layers: dict[str, dict[str, Layer]] | None = None,
    tokens: int,
    together: bool = False,
    rank_experts: int = RANK_EXPERTS,
    screen: Console,
) -> dict[str, Any]:
    """The document of `mxd eval` on one text: faithfulness, geometry and specialisation.

    Args:
        opened: the run and its model.
        text: the text.
        layers: some of the run's layers; None takes all.
        tokens: how many of its tokens to read.
        together: also put the layers of all sites in place at once.
        rank_experts: experts of each MxD to decompose; 0 leaves geometry out.
        screen: where progress is said.
    """
    excluded = special_token_ids(
        opened.tokenizer, opened.run.recipe.text.exclusion.exclude_from_evaluation
    )
    chosen = opened.run.layers if layers is None else layers
    figures = evaluate(
        opened.model,
        chosen,
        text.contexts,
        tokens=tokens,
        bos_token_id=opened.tokenizer.bos_token_id,
        excluded_token_ids=excluded,
        together=together,
        text=text.described,
        on_progress=evaluation_progress(screen, tokens),
    )
    units = measure_units(
        opened.model,
        chosen,
        text.contexts,
        tokens=tokens,
        rank_experts=rank_experts,
        excluded_token_ids=excluded,
    )
    head = {"kind": "faithfulness", "command": command_line()}
    return {**head, **figures.to_dict(), **unit_documents(units)}


def keep(opened: Opened, document: dict[str, Any], name: str) -> None:
    """Store a document in the run, write its figures into the model cards, publish the report."""
    store_evaluation(opened.run, document, name=name)
    publish_report(opened, document)


def publish_report(opened: Opened, document: dict[str, Any]) -> None:
    """Write the run's report, judged by a document, with whatever else its folder holds."""
    run = opened.run
    publish(
        opened.folder,
        title=f"{run.base_model}: {', '.join(run.layers)}",
        record=run.record,
        evaluation=document,
        command=command_line(),
    )


def evaluate_held_out(
    opened: Opened,
    *,
    tokens: int,
    batch_contexts: int = 16,
    rank_experts: int = RANK_EXPERTS,
    screen: Console,
) -> dict[str, Any]:
    """Measure a run on what it held out, keep that as eval/held-out.json, publish the report.

    Args:
        opened: the run and its model.
        tokens: tokens to evaluate on.
        batch_contexts: contexts in a forward pass.
        rank_experts: experts of each MxD to decompose; 0 leaves geometry out.
        screen: where progress is said.

    Returns:
        The document of `mxd eval`.
    """
    text = held_out_text(opened, tokens=tokens, batch_contexts=batch_contexts)
    document = measure(opened, text, tokens=tokens, rank_experts=rank_experts, screen=screen)
    keep(opened, document, text.name)
    return document
