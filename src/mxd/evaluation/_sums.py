"""The running sums of one evaluation, batch by batch."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mxd.data import Contexts
from mxd.errors import NotANumberError, UserError
from mxd.evaluation.prediction import PredictionTotals, kl_divergence, token_losses
from mxd.evaluation.reconstruction import ReconstructionTotals
from mxd.evaluation.replay import Replay
from mxd.host import Resume, find_site, graft, input_device, record
from mxd.layers import Layer

logger = logging.getLogger(__name__)

SiteLayers = Mapping[str, Mapping[str, Layer]]
"""Layers by the name of their site and their own."""


class _Batch(NamedTuple):
    tokens: Int[Tensor, "contexts length"]
    logits: Float[Tensor, "contexts length vocabulary"]
    losses: Float[Tensor, "predicted"]
    wanted: Bool[Tensor, "contexts length_less_one"]
    documents: Int[Tensor, "predicted"]
    all_documents: Int[Tensor, "contexts length"]


class Sums:
    """Sums over tokens for the base model, each layer and each ablation."""

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
        self.device = input_device(model)
        self.sites = {name: find_site(model, name) for name in layers}
        for site, students in layers.items():
            for layer in students.values():
                with graft(model, {site: layer}):  # widths and base model are checked here
                    layer.eval()
        self.bos, self.excluded = bos_token_id, excluded
        self.static_reference = "training"
        self.tokens = self.batches = 0
        self.base = PredictionTotals()
        self._resume = Resume(model, self.sites.values())
        self._resumed: set[str] = set()

    def start(self, together: bool) -> None:
        """Begin at zero, once every layer has its statistics."""
        pairs = [(site, name) for site, students in self.layers.items() for name in students]
        self.rebuilt = {(s, n): ReconstructionTotals(self.layers[s][n]) for s, n in pairs}
        self.predicted = {pair: PredictionTotals() for pair in pairs}
        self.zero = {site: PredictionTotals() for site in self.sites}
        self.mean = {site: PredictionTotals() for site in self.sites}
        self.all_zero, self.all_mean = PredictionTotals(), PredictionTotals()
        shared = [n for _, n in pairs if sum(n == other for _, other in pairs) > 1]
        self.together = {n: PredictionTotals() for n in dict.fromkeys(shared)} if together else {}

    def add(self, contexts: Contexts) -> None:
        """Run the base model and every variant of it over a batch of contexts."""
        tokens = contexts.tokens.to(self.device)
        with record(self.model, list(self.sites.values())) as values, self._resume.remember():
            logits = self.model(tokens, use_cache=False).logits
            # Sites may be on other devices than the tokens.
            activations = {
                site: (x.to(self.device), y.to(self.device)) for site, (x, y) in values.items()
            }
        self.batches += 1
        for site, pair in activations.items():
            if not all(bool(values.isfinite().all()) for values in pair):
                raise UserError(
                    f"NaN or infinite activations at site {site} in batch {self.batches} of the "
                    "evaluation; check the model's weights and the precision it runs in"
                )
        wanted = ~_among(tokens[:, 1:], self.excluded)
        losses = token_losses(logits, tokens, wanted)
        documents = contexts.documents[:, 1:][wanted.cpu()].long()
        batch = _Batch(
            tokens, logits, losses, wanted, documents, contexts.documents.to(self.device)
        )
        self.tokens += tokens.numel()
        self.base.add(losses, losses, documents)
        for site, students in self.layers.items():
            self._try_to_resume(batch, site)
            x, y = activations[site]
            self._ablate(batch, site, y)
            for name, layer in students.items():
                replay = Replay(self._rebuild(batch, (site, name), layer, x, y))
                self._predict(batch, {site: replay}, self.predicted[site, name], kl=True)
        self._ablate_all(batch, {site: y for site, (_, y) in activations.items()})
        for name, totals in self.together.items():
            chosen = {s: students[name] for s, students in self.layers.items() if name in students}
            self._predict(batch, chosen, totals, kl=True)

    def _try_to_resume(self, batch: _Batch, site: str) -> None:
        """Leave out the blocks before a site only where that changes no bit of the logits."""
        if site in self._resumed or not self._resume.can(site):
            return
        self._resumed.add(site)
        try:
            with self._resume.resuming([site]):
                logits = self.model(batch.tokens, use_cache=False).logits
            same = torch.equal(logits, batch.logits)
        except Exception as error:  # whatever an unknown model does: then the whole pass is run
            logger.debug("no passes from the block of %s on: %s", site, error)
            same = False
        if not same:
            self._resume.give_up(site)

    def _rebuild(
        self, batch: _Batch, pair: tuple[str, str], layer: Layer, x: Tensor, y: Tensor
    ) -> Tensor:
        # A layer may have a device and a type of its own.
        fed, target = (y if layer.reads == "output" else x).to(layer.bias), y.to(layer.bias)
        untrained = _among(batch.tokens, layer.provenance.excluded_token_ids)
        # Every token goes through the layer once; only the counted ones enter its figures.
        counted = ~(untrained | _among(batch.tokens, self.excluded)).to(target.device)
        is_bos = _among(batch.tokens, () if self.bos is None else (self.bos,)).to(target.device)
        documents = batch.all_documents.to(target.device)
        full = target.clone()
        full[counted] = self.rebuilt[pair].add(
            fed[counted], target[counted], is_bos[counted], documents[counted]
        )
        if not bool(counted.all()):
            full[~counted] = layer(fed[~counted])
        return torch.where(untrained.unsqueeze(-1), y, full.to(y))

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
        # They were checked at the start; the blocks before them give what they gave.
        with graft(self.model, sites, check=False), self._resume.resuming(layers):
            logits = self._logits(batch)
        divergence = kl_divergence(batch.logits, logits, batch.wanted) if kl else 0.0
        losses = token_losses(logits, batch.tokens, batch.wanted)
        totals.add(losses, batch.losses, batch.documents, divergence)

    def _logits(self, batch: _Batch) -> Tensor:
        try:
            logits: Tensor = self.model(batch.tokens, use_cache=False).logits
        except NotANumberError:  # a layer whose training diverged feeds NaN to the next one
            logits = torch.full_like(batch.logits, torch.nan)
        return logits


def _among(tokens: Int[Tensor, "..."], ids: Sequence[int]) -> Bool[Tensor, "..."]:
    if not ids:
        return torch.zeros_like(tokens, dtype=torch.bool)
    return torch.isin(tokens, torch.tensor(ids, device=tokens.device))
