"""Faithfulness and specialisation of layers, streamed over held-out text."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mxd.data import Contexts
from mxd.errors import UserError
from mxd.evaluation.figures import (
    DocumentTotals,
    Evaluation,
    LayerFigures,
    SiteFigures,
    TogetherFigures,
)
from mxd.evaluation.prediction import PredictionTotals, kl_divergence, token_losses
from mxd.evaluation.reconstruction import ReconstructionTotals, Usage
from mxd.evaluation.replay import Replay
from mxd.host import MLPSite, capture, find_site, graft, record
from mxd.layers import Layer, take_statistics

SiteLayers = Mapping[str, Mapping[str, Layer]]
"""Layers by the name of their site and their own."""

_REFERENCE_TOKENS = 16_384


class _Batch(NamedTuple):
    tokens: Int[Tensor, "contexts length"]
    logits: Float[Tensor, "contexts length vocabulary"]
    losses: Float[Tensor, "predicted"]
    wanted: Bool[Tensor, "contexts length_less_one"]
    documents: Int[Tensor, "predicted"]
    all_documents: Int[Tensor, "contexts length"]


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
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure what the model loses with each layer in place, and how the layers use their units.

    Args:
        model: the base model.
        layers: layers by the name of their site and their own.
        contexts: held-out text, as `mxd.data.pack` gives it.
        tokens: how many tokens to read, rounded up to whole batches of contexts.
        bos_token_id: BOS, for the figures without it.
        excluded_token_ids: tokens whose activations and whose predictions are not counted.
        together: also put the layers that have the same name at several sites in place at once.
        on_progress: called with the number of tokens after each batch.

    Returns:
        All figures. Where a layer was trained without some special tokens, the original output
        stands at those, as in a graft.

    Raises:
        UserError: no layers, no text, or layers that do not fit the model.
    """
    model.eval()
    state = _State(model, layers, bos_token_id, tuple(excluded_token_ids))
    lacking = _without_statistics(layers)
    try:
        if lacking:
            state.static_reference = "evaluation"
            _take_statistics(model, state.sites, lacking, contexts)
        state.start(together)
        for batch in _first(contexts, tokens):
            state.add(batch)
            if on_progress is not None:
                on_progress(state.tokens)
    finally:  # means of this text are no means of training
        for _, layer in lacking:
            layer.statistics.clear()
    return state.figures()


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
    device = next(model.parameters()).device
    found = [
        capture(model, list(sites.values()), batch.tokens.to(device))
        for batch in _first(contexts, _REFERENCE_TOKENS)
    ]
    for site, layer in lacking:
        x = torch.cat([acts[site][0].flatten(0, -2) for acts in found])
        y = torch.cat([acts[site][1].flatten(0, -2) for acts in found])
        take_statistics(layer, y if layer.reads == "output" else x, y)


class _State:
    """The running sums of one evaluation."""

    def __init__(
        self,
        model: nn.Module,
        layers: SiteLayers,
        bos_token_id: int | None,
        excluded: tuple[int, ...],
    ) -> None:
        if not layers or not any(layers.values()):
            raise UserError("got no layers to evaluate, expected at least one")
        self.model, self.layers = model, layers
        self.device = next(model.parameters()).device
        self.sites = {name: find_site(model, name) for name in layers}
        for site, students in layers.items():
            for layer in students.values():
                with graft(model, {site: layer}):  # widths and base model are checked here
                    layer.eval()
        self.bos, self.excluded = bos_token_id, excluded
        self.static_reference = "training"
        self.tokens = self.documents = 0
        self.base = PredictionTotals()

    def start(self, together: bool) -> None:
        pairs = [(site, name) for site, students in self.layers.items() for name in students]
        self.rebuilt = {(s, n): ReconstructionTotals(self.layers[s][n]) for s, n in pairs}
        self.predicted = {pair: PredictionTotals() for pair in pairs}
        self.zero = {site: PredictionTotals() for site in self.sites}
        self.mean = {site: PredictionTotals() for site in self.sites}
        self.all_zero, self.all_mean = PredictionTotals(), PredictionTotals()
        shared = [n for _, n in pairs if sum(n == other for _, other in pairs) > 1]
        self.together = {n: PredictionTotals() for n in dict.fromkeys(shared)} if together else {}

    def add(self, contexts: Contexts) -> None:
        tokens = contexts.tokens.to(self.device)
        with record(self.model, list(self.sites.values())) as values:
            logits = self.model(tokens, use_cache=False).logits
            activations = dict(values)
        wanted = ~_among(tokens[:, 1:], self.excluded)
        losses = token_losses(logits, tokens, wanted)
        documents = contexts.documents[:, 1:][wanted.cpu()].long()
        batch = _Batch(
            tokens, logits, losses, wanted, documents, contexts.documents.to(self.device)
        )
        self.tokens += tokens.numel()
        self.documents = max(self.documents, int(contexts.documents.max()) + 1)
        self.base.add(losses, losses, documents)
        for site, students in self.layers.items():
            x, y = activations[site]
            self._ablate(batch, site, y)
            for name, layer in students.items():
                replay = Replay(self._rebuild(batch, (site, name), layer, x, y))
                self._predict(batch, {site: replay}, self.predicted[site, name], kl=True)
        self._ablate_all(batch, {site: y for site, (_, y) in activations.items()})
        for name, totals in self.together.items():
            chosen = {s: students[name] for s, students in self.layers.items() if name in students}
            self._predict(batch, chosen, totals, kl=True)

    def _rebuild(
        self, batch: _Batch, pair: tuple[str, str], layer: Layer, x: Tensor, y: Tensor
    ) -> Tensor:
        dtype = layer.bias.dtype
        fed = (y if layer.reads == "output" else x).to(dtype)
        counted = ~_among(batch.tokens, self.excluded)
        is_bos = _among(batch.tokens, () if self.bos is None else (self.bos,))
        # Every token goes through the layer once; only the counted ones enter its figures.
        output = self.rebuilt[pair].add(
            fed[counted], y[counted].to(dtype), is_bos[counted], batch.all_documents[counted]
        )
        full = y.to(dtype, copy=True)
        full[counted] = output
        if not bool(counted.all()):
            full[~counted] = layer(fed[~counted])
        untrained = _among(batch.tokens, layer.provenance.excluded_token_ids)
        return torch.where(untrained.unsqueeze(-1), y, full.to(y.dtype))

    def _ablate(self, batch: _Batch, site: str, y: Tensor) -> None:
        mean = self._mean_output(site, y)
        self._predict(batch, {site: Replay(torch.zeros_like(y))}, self.zero[site])
        self._predict(batch, {site: Replay(mean.expand_as(y))}, self.mean[site])

    def _ablate_all(self, batch: _Batch, outputs: dict[str, Tensor]) -> None:
        if len(outputs) > 1:
            zeros = {site: Replay(torch.zeros_like(y)) for site, y in outputs.items()}
            means = {
                site: Replay(self._mean_output(site, y).expand_as(y)) for site, y in outputs.items()
            }
            self._predict(batch, zeros, self.all_zero)
            self._predict(batch, means, self.all_mean)

    def _mean_output(self, site: str, y: Tensor) -> Tensor:
        return next(iter(self.layers[site].values())).statistics["mean_output"].to(y)

    def _predict(
        self,
        batch: _Batch,
        layers: Mapping[str, nn.Module],
        totals: PredictionTotals,
        kl: bool = False,
    ) -> None:
        sites = {self.sites[site]: layer for site, layer in layers.items()}
        with graft(self.model, sites, check=False):  # they were checked at the start
            logits = self.model(batch.tokens, use_cache=False).logits
        divergence = kl_divergence(batch.logits, logits, batch.wanted) if kl else 0.0
        losses = token_losses(logits, batch.tokens, batch.wanted)
        totals.add(losses, batch.losses, batch.documents, divergence)

    def figures(self) -> Evaluation:
        one = len(self.sites) == 1
        zero = next(iter(self.zero.values())) if one else self.all_zero
        mean = next(iter(self.mean.values())) if one else self.all_mean
        return Evaluation(
            tokens=self.tokens,
            predicted_tokens=self.base.tokens,
            documents=self.documents,
            base_cross_entropy=self.base.mean_loss,
            zero_ablation_cross_entropy=zero.mean_loss,
            mean_ablation_cross_entropy=mean.mean_loss,
            static_reference=self.static_reference,
            layers=[self._layer(site, name) for site, name in self.predicted],
            sites=[self._site(site) for site in self.sites],
            together=[self._together(name, zero.mean_loss) for name in self.together],
            by_document={
                pair: DocumentTotals(delta=totals.delta, nmse=self.rebuilt[pair].by_document)
                for pair, totals in self.predicted.items()
            },
        )

    def _recovered(self, loss: float, zero: float) -> float:
        gap = zero - self.base.mean_loss
        return (zero - loss) / gap if gap else float("nan")

    def _layer(self, site: str, name: str) -> LayerFigures:
        layer = self.layers[site][name]
        rebuilt, predicted = self.rebuilt[site, name], self.predicted[site, name]
        usage, delta = rebuilt.usage(), predicted.delta.estimate()
        units = layer.config.n_units
        unused = dict.fromkeys(Usage._fields)
        return LayerFigures(
            name=name,
            site=site,
            architecture=layer.config.architecture,
            k=getattr(layer.config, "k", None),
            width=units or None,
            seed=layer.provenance.seed,
            **layer.cost()._asdict(),
            nmse=rebuilt.nmse,
            nmse_without_bos=rebuilt.nmse_without_bos,
            fvu=rebuilt.fvu,
            static_nmse=rebuilt.static_nmse,
            modulation_share=rebuilt.modulation_share,
            cross_entropy=predicted.mean_loss,
            delta_cross_entropy=delta.mean,
            delta_cross_entropy_se=delta.standard_error,
            loss_recovered=self._recovered(predicted.mean_loss, self.zero[site].mean_loss),
            kl=predicted.mean_kl,
            **(unused if usage is None else usage._asdict()),
        )

    def _site(self, site: str) -> SiteFigures:
        name = next(iter(self.layers[site]))
        return SiteFigures(
            site=site,
            zero_ablation_cross_entropy=self.zero[site].mean_loss,
            mean_ablation_cross_entropy=self.mean[site].mean_loss,
            zero_output_tokens=self.rebuilt[site, name].zero_tokens,
        )

    def _together(self, name: str, zero: float) -> TogetherFigures:
        totals = self.together[name]
        delta = totals.delta.estimate()
        return TogetherFigures(
            name=name,
            sites=[site for site, students in self.layers.items() if name in students],
            cross_entropy=totals.mean_loss,
            delta_cross_entropy=delta.mean,
            delta_cross_entropy_se=delta.standard_error,
            loss_recovered=self._recovered(totals.mean_loss, zero),
            kl=totals.mean_kl,
        )


def _among(tokens: Int[Tensor, "..."], ids: Sequence[int]) -> Bool[Tensor, "..."]:
    if not ids:
        return torch.zeros_like(tokens, dtype=torch.bool)
    return torch.isin(tokens, torch.tensor(ids, device=tokens.device))
