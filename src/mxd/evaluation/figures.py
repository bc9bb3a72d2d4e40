"""What an evaluation measures: plain dataclasses whose fields are the keys of `mxd eval --json`."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mxd.evaluation.documents import DocumentSums, Estimate, paired_difference


@dataclass(kw_only=True)
class LayerFigures:
    """One layer's figures; None where a figure has no meaning for the architecture."""

    name: str
    """Name of the student."""
    site: str
    """Name of the module that it replaces."""
    architecture: str
    """`mxd`, `transcoder`, `skip_transcoder`, `topk_autoencoder`, `dense_mlp`, `mlp_transcoder`."""
    k: int | None
    """Configured K."""
    width: int | None
    """Gated units: experts or latents."""
    seed: int | None
    """Seed of its training."""
    parameters: int
    """All parameters."""
    active_parameters: int
    """Parameters that touch one token's output."""
    flops_per_token: int
    """Floating-point operations of the forward pass for a token."""
    nmse: float
    """Mean over tokens of ‖ŷ − y‖² / ‖y‖²; tokens with y = 0 are left out."""
    nmse_without_bos: float
    """The same without BOS tokens."""
    fvu: float
    """Σ‖ŷ − y‖² / Σ‖y − ȳ‖²."""
    static_nmse: float | None
    """NMSE with the modulation Cᵀa frozen at its mean over training tokens."""
    modulation_share: float | None
    """E‖m − E m‖² / E‖m‖² of the modulation m = Cᵀa: the share that varies with the token."""
    cross_entropy: float
    """Next-token cross-entropy with the layer in place, in nats per token."""
    delta_cross_entropy: float
    """Its increase over the base model's."""
    delta_cross_entropy_se: float
    """Standard error of the increase, paired and clustered by document."""
    loss_recovered: float
    """(CE_zero − CE_layer) / (CE_zero − CE_base)."""
    kl: float
    """KL(base ‖ grafted) of the next-token distributions, mean over tokens, in nats."""
    l0: float | None
    """Mean number of active units."""
    dead_fraction: float | None
    """Share of units that never fired on this text."""
    usage_entropy: float | None
    """Entropy of how often the units fire, over log N: 1 is even use."""
    max_expert_frequency: float | None
    """Share of tokens on which the most frequent unit fires."""
    experts_above_10pct: int | None
    """Units that fire on more than 10 % of tokens."""
    top_expert_share: float | None
    """Share of Σ‖a_n c_n‖ that the most frequent unit carries."""


@dataclass(kw_only=True)
class SiteFigures:
    """The references at one site."""

    site: str
    """Name of the module."""
    zero_ablation_cross_entropy: float
    """Cross-entropy with the site's output set to zero, in nats per token."""
    mean_ablation_cross_entropy: float
    """Cross-entropy with the site's output set to its mean over training tokens."""
    zero_output_tokens: int
    """Tokens with y = 0, which NMSE leaves out."""


@dataclass(kw_only=True)
class TogetherFigures:
    """Layers of several sites in place at once."""

    name: str
    """Name of the student, the same at every site."""
    sites: list[str]
    """Sites that are replaced."""
    cross_entropy: float
    """Cross-entropy with all of them in place, in nats per token."""
    delta_cross_entropy: float
    """Its increase over the base model's."""
    delta_cross_entropy_se: float
    """Standard error of the increase, paired and clustered by document."""
    loss_recovered: float
    """Against all sites ablated to zero together."""
    kl: float
    """KL(base ‖ grafted), in nats per token."""


@dataclass(kw_only=True)
class DocumentTotals:
    """One layer's sums by document."""

    delta: DocumentSums
    """Increase of the cross-entropy, in nats."""
    nmse: DocumentSums
    """‖ŷ − y‖² / ‖y‖² of each token."""


@dataclass(kw_only=True)
class Evaluation:
    """A whole evaluation; `to_dict` is the document that `mxd eval --json` writes."""

    tokens: int
    """Tokens evaluated, those that start a context included."""
    predicted_tokens: int
    """Tokens whose prediction enters the cross-entropies."""
    documents: int
    """Documents they come from."""
    base_cross_entropy: float
    """Next-token cross-entropy of the base model, in nats per token."""
    zero_ablation_cross_entropy: float
    """With every site's output set to zero (with one site: that site's)."""
    mean_ablation_cross_entropy: float
    """With every site's output set to its training mean."""
    static_reference: str
    """Where the means come from: `training` tokens, or this `evaluation` text (layers without)."""
    layers: list[LayerFigures]
    """One entry for each layer."""
    text: str | None = None
    """What was read, in words."""
    sites: list[SiteFigures] = field(default_factory=list)
    """References for each site."""
    together: list[TogetherFigures] = field(default_factory=list)
    """Layers of several sites at once, where asked for."""

    by_document: dict[tuple[str, str], DocumentTotals] = field(default_factory=dict)
    """Sums by document for each (site, name), for paired comparisons; not part of the document."""

    def compare(
        self, site: str, ours: Sequence[str], theirs: Sequence[str], figure: str = "delta"
    ) -> Estimate:
        """How far apart two architectures are at a site, paired by document.

        Args:
            site: name of the site.
            ours: names of one architecture's students, one for each seed.
            theirs: names of the other's.
            figure: `delta` (cross-entropy, nats per token) or `nmse`.

        Returns:
            mean(ours) − mean(theirs) with its standard error: below zero, ours is better.
        """
        return paired_difference(
            [getattr(self.by_document[site, name], figure) for name in ours],
            [getattr(self.by_document[site, name], figure) for name in theirs],
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON: what is not finite becomes null."""
        plain = finite(asdict(replace(self, by_document={})))
        assert isinstance(plain, dict)
        del plain["by_document"]
        return plain


def finite(value: Any) -> Any:
    """Plain data ready for JSON: what is not finite becomes None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
