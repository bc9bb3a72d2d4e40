"""How well the language model predicts: cross-entropies, KL, and errors paired by document."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mxd.evaluation.documents import DocumentSums


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
    """−log p of each wanted next token, in float32, on the CPU; a context at a time."""
    losses = [
        cross_entropy(row[:-1][keep].float(), ids[1:][keep], reduction="none").cpu()
        for row, ids, keep in zip(logits, tokens, wanted, strict=True)
    ]
    return torch.cat(losses)


def kl_divergence(
    base: Float[Tensor, "contexts length vocabulary"],
    other: Float[Tensor, "contexts length vocabulary"],
    wanted: Bool[Tensor, "contexts length_less_one"],
) -> float:
    """Σ over the wanted positions of KL(base ‖ other), in nats; a context at a time."""
    total = 0.0
    for p, q, keep in zip(base, other, wanted, strict=True):
        log_p = p[:-1][keep].float().log_softmax(-1)
        log_q = q[:-1][keep].float().log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum(-1).double().sum())
    return total
