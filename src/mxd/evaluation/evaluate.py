"""Faithfulness and specialisation of layers, streamed over held-out text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from mxd.data import Contexts
from mxd.errors import UserError
from mxd.evaluation._assemble import assemble
from mxd.evaluation._sums import SiteLayers, Sums
from mxd.evaluation.figures import Evaluation
from mxd.host import MLPSite, capture, input_device
from mxd.layers import Layer, take_statistics

_REFERENCE_TOKENS = 16_384


@torch.no_grad()
def evaluate(
    model: nn.Module,
    layers: SiteLayers,
    contexts: Iterable[Contexts],
    *,
    tokens: int = 200_000,
    bos_token_id: int | None = None,
    excluded_token_ids: Sequence[int] = (),
    together: bool = False,
    text: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure what the model loses with each layer in place, and how the layers use their units.

    Args:
        model: the base model.
        layers: layers by the name of their site and their own.
        contexts: held-out text, as `mxd.data.pack` gives it; it is read again from its start
            where a layer was stored without statistics.
        tokens: how many tokens to read, rounded up to whole batches of contexts.
        bos_token_id: BOS, for the figures without it.
        excluded_token_ids: tokens whose activations and whose predictions are not counted.
        together: also put the layers that have the same name at several sites in place at once.
        text: what the contexts are, in words, for reports.
        on_progress: called with the number of tokens after each batch.

    Returns:
        All figures. Where a layer was trained without some special tokens, the original output
        stands at those, as in a graft, and they do not enter its reconstruction figures.

    Raises:
        UserError: no layers, no text, or layers that do not fit the model.
    """
    model.eval()
    sums = Sums(model, layers, bos_token_id, tuple(excluded_token_ids))
    lacking = _without_statistics(layers)
    try:
        if lacking:
            sums.static_reference = "evaluation"
            _take_statistics(model, sums.sites, lacking, contexts)
        sums.start(together)
        for batch in _first(contexts, tokens):
            sums.add(batch)
            if on_progress is not None:
                on_progress(sums.tokens)
        if not sums.base.tokens:
            raise UserError("got no token that is not excluded, expected text with some")
    finally:  # means of this text are no means of training
        for _, layer in lacking:
            layer.statistics.clear()
    return replace(assemble(sums), text=text)


def _first(contexts: Iterable[Contexts], tokens: int) -> Iterator[Contexts]:
    seen = 0
    for batch in contexts:
        yield batch
        seen += batch.tokens.numel()
        if seen >= tokens:
            return
    if not seen:
        raise UserError("got no text to evaluate on, expected at least one context")


def _without_statistics(layers: SiteLayers) -> list[tuple[str, Layer]]:
    return [
        (site, layer)
        for site, students in layers.items()
        for layer in students.values()
        if "mean_output" not in layer.statistics
    ]


def _take_statistics(
    model: nn.Module,
    sites: dict[str, MLPSite],
    lacking: list[tuple[str, Layer]],
    contexts: Iterable[Contexts],
) -> None:
    """Take means from the evaluation text for layers that were stored without any."""
    device = input_device(model)
    found = [
        capture(model, list(sites.values()), batch.tokens.to(device))
        for batch in _first(contexts, _REFERENCE_TOKENS)
    ]
    for site, layer in lacking:
        x = torch.cat([acts[site][0].flatten(0, -2) for acts in found])
        y = torch.cat([acts[site][1].flatten(0, -2) for acts in found])
        take_statistics(layer, y if layer.reads == "output" else x, y)
