"""A site of the model as a workbench: what goes in, and the losses for whatever comes out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mxd.data import Contexts
from mxd.errors import UserError
from mxd.evaluation.prediction import token_losses
from mxd.evaluation.replay import Replay
from mxd.host import find_site, graft, input_device, record
from mxd.layers import Codes, Layer, SparseLayer


@dataclass(frozen=True)
class Pass:
    """One pass of the base model over a batch of contexts."""

    tokens: Int[Tensor, "contexts length"]
    """Token ids."""
    x: Float[Tensor, "contexts length d_in"]
    """What the MLP is fed."""
    y: Float[Tensor, "contexts length d_out"]
    """What it gives."""
    wanted: Bool[Tensor, "contexts length_less_one"]
    """Which next tokens count."""
    documents: Int[Tensor, "predicted"]
    """Documents of those."""
    losses: Float[Tensor, "contexts length_less_one"]
    """−log p of each wanted next token under the base model, 0 elsewhere."""

    def counted(
        self, values: Float[Tensor, "contexts length_less_one"]
    ) -> Float[Tensor, "predicted"]:
        """The values at the next tokens that count."""
        return values[self.wanted.cpu()]


class Bench:
    """A model with one site; with one site replaced, a layer is fed what the MLP was fed.

    So a layer is computed from the recorded input, and its output replayed into the model.

    Args:
        model: the base model.
        site: name of the site.
        excluded: tokens that do not count as targets.
    """

    def __init__(self, model: nn.Module, site: str, excluded: Sequence[int] = ()) -> None:
        self.model, self.site = model, find_site(model, site)
        self.excluded = tuple(excluded)
        self.device = input_device(model)

    def check(self, layer: Layer) -> None:
        """Refuse a layer that does not fit the site."""
        with graft(self.model, {self.site: layer}):
            layer.eval()

    @torch.no_grad()
    def passes(self, contexts: Iterable[Contexts]) -> Iterator[Pass]:
        """The base model over each batch.

        Raises:
            UserError: activations that are no numbers.
        """
        for batch in contexts:
            tokens = batch.tokens.to(self.device)
            with record(self.model, [self.site]) as values:
                logits = self.model(tokens, use_cache=False).logits
                # The site may be on another device than the tokens.
                x, y = (value.to(self.device) for value in values[self.site.name])
            if not bool(x.isfinite().all() and y.isfinite().all()):
                raise UserError(
                    f"NaN or infinite activations at site {self.site.name}; check the model's "
                    "weights and the precision it runs in"
                )
            wanted = ~among(tokens[:, 1:], self.excluded)
            documents = batch.documents[:, 1:][wanted.cpu()].long()
            losses = _grid(token_losses(logits, tokens, wanted), wanted)
            yield Pass(tokens, x, y, wanted, documents, losses)

    def logits(self, tokens: Tensor, output: Tensor) -> Tensor:
        """The model's logits with the site's output given."""
        with graft(self.model, {self.site: Replay(output)}, check=False):
            logits: Tensor = self.model(tokens, use_cache=False).logits
        return logits

    @torch.no_grad()
    def losses(
        self,
        seen: Pass,
        output: Float[Tensor, "rows length d_out"],
        rows: Bool[Tensor, "contexts"] | None = None,
    ) -> Float[Tensor, "rows length_less_one"]:
        """Losses with the site's output given, for all contexts or those in `rows`."""
        tokens, wanted = seen.tokens, seen.wanted
        if rows is not None:
            tokens, wanted = tokens[rows], wanted[rows]
        return _grid(token_losses(self.logits(tokens, output), tokens, wanted), wanted)


def fed(layer: Layer, seen: Pass) -> Tensor:
    """What a layer reads, in its own precision and on its own device."""
    return (seen.y if layer.reads == "output" else seen.x).to(layer.bias)


@torch.no_grad()
def codes_of(layer: SparseLayer, seen: Pass) -> Codes:
    """The layer's codes; no unit is active at tokens that the layer leaves to the original."""
    codes = layer.encode(fed(layer, seen))
    untrained = _untrained(layer, seen).to(codes.values.device).unsqueeze(-1)
    return Codes(codes.values.masked_fill(untrained, 0), codes.indices, codes.n_units)


def output_of(layer: SparseLayer, seen: Pass, codes: Codes) -> Float[Tensor, "..."]:
    """The site's output with the layer in place, from codes that may have been changed."""
    full = layer.decode(codes, fed(layer, seen)).to(seen.y)
    return torch.where(_untrained(layer, seen).unsqueeze(-1), seen.y, full)


def rows_of(seen: Pass, rows: Bool[Tensor, "contexts"]) -> Pass:
    """A pass with some of its contexts alone; documents are not kept."""
    nothing = seen.documents[:0]
    return Pass(
        seen.tokens[rows], seen.x[rows], seen.y[rows], seen.wanted[rows], nothing,
        seen.losses[rows.cpu()],
    )  # fmt: skip


def among(tokens: Int[Tensor, "..."], ids: Sequence[int]) -> Bool[Tensor, "..."]:
    """Which tokens are among some ids."""
    if not ids:
        return torch.zeros_like(tokens, dtype=torch.bool)
    return torch.isin(tokens, torch.tensor(ids, device=tokens.device))


def _untrained(layer: Layer, seen: Pass) -> Bool[Tensor, "contexts length"]:
    return among(seen.tokens, layer.provenance.excluded_token_ids)


def _grid(
    losses: Float[Tensor, "predicted"], wanted: Bool[Tensor, "contexts length_less_one"]
) -> Float[Tensor, "contexts length_less_one"]:
    grid = torch.zeros(wanted.shape, dtype=torch.float64)
    grid[wanted.cpu()] = losses.double()
    return grid
