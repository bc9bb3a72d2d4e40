"""How well the language model predicts: cross-entropies, KL, and errors paired by document."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mxd.evaluation.documents import DocumentSums

_PIECE_ELEMENTS = 1 << 24
"""Logits that exist in float32 at one time (64 MiB)."""


class PredictionTotals:
    """Sums over tokens of one variant's next-token predictions, by document."""

    def __init__(self) -> None:
        self.loss, self.delta = DocumentSums(), DocumentSums()
        self.kl = 0.0

    def add(
        self,
        losses: Float[Tensor, "tokens"],
        base_losses: Float[Tensor, "tokens"],
        documents: Int[Tensor, "tokens"],
        kl_sum: float = 0.0,
    ) -> None:
        """Add a batch of predicted tokens."""
        self.loss.add(losses.double(), documents)
        self.delta.add(losses.double() - base_losses.double(), documents)
        self.kl += kl_sum

    @property
    def tokens(self) -> int:
        """Predicted tokens."""
        return self.loss.tokens

    @property
    def mean_loss(self) -> float:
        """Cross-entropy in nats per token."""
        return self.loss.mean

    @property
    def mean_kl(self) -> float:
        """KL from the base model, in nats per token."""
        return self.kl / self.tokens if self.tokens else math.nan


def token_losses(
    logits: Float[Tensor, "contexts length vocabulary"],
    tokens: Int[Tensor, "contexts length"],
    wanted: Bool[Tensor, "contexts length_less_one"],
) -> Float[Tensor, "predicted"]:
    """−log p of each wanted next token, in float32, on the CPU."""
    rows, targets = logits[:, :-1][wanted], tokens[:, 1:][wanted]
    piece = max(1, _PIECE_ELEMENTS // logits.shape[-1])
    losses = [
        torch.nn.functional.cross_entropy(r.float(), t, reduction="none")
        for r, t in zip(rows.split(piece), targets.split(piece), strict=True)
    ]
    return torch.cat(losses).cpu() if losses else torch.zeros(0)


def kl_divergence(
    base: Float[Tensor, "contexts length vocabulary"],
    other: Float[Tensor, "contexts length vocabulary"],
    wanted: Bool[Tensor, "contexts length_less_one"],
) -> float:
    """Σ over the wanted positions of KL(base ‖ other), in nats."""
    total = 0.0
    piece = max(1, _PIECE_ELEMENTS // base.shape[-1])
    rows, others = base[:, :-1][wanted], other[:, :-1][wanted]
    for p, q in zip(rows.split(piece), others.split(piece), strict=True):
        log_p, log_q = p.float().log_softmax(-1), q.float().log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum(-1).double().sum())
    return total
