"""Sums by document, so that means have standard errors that know which tokens belong together."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Estimate(NamedTuple):
    """A mean over tokens with its standard error, clustered by document."""

    mean: float
    standard_error: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.mean - 1.96 * self.standard_error, self.mean + 1.96 * self.standard_error


class DocumentSums:
    """Sums and counts of a value over tokens, for each document."""

    def __init__(self) -> None:
        self.sums = torch.zeros(0, dtype=torch.float64)
        self.counts = torch.zeros(0, dtype=torch.float64)

    def add(self, values: Float[Tensor, "tokens"], documents: Int[Tensor, "tokens"]) -> None:
        """Add the values of a batch of tokens."""
        values, documents = values.double().cpu(), documents.long().cpu()
        size = int(documents.max()) + 1 if len(documents) else 0
        self.sums = _grown(self.sums, size).index_add_(0, documents, values)
        self.counts = _grown(self.counts, size).index_add_(0, documents, torch.ones_like(values))

    @property
    def tokens(self) -> int:
        """Tokens added."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean over tokens."""
        return float(self.sums.sum() / self.counts.sum()) if self.tokens else math.nan

    def estimate(self) -> Estimate:
        """The mean, and the standard error of a ratio of sums over documents."""
        return ratio_estimate(self.sums, self.counts)


def paired_difference(ours: list[DocumentSums], theirs: list[DocumentSums]) -> Estimate:
    """How far one mean is from another on the same tokens, paired by document.

    Args:
        ours: sums of one variant, one entry for each seed.
        theirs: sums of the other over the same documents, as many or fewer seeds.

    Returns:
        mean(ours) − mean(theirs), averaged over seeds, with its standard error by document.
    """
    mine = torch.stack([each.sums for each in ours]).mean(0)
    other = torch.stack([each.sums for each in theirs]).mean(0)
    return ratio_estimate(mine - other, ours[0].counts)


def ratio_estimate(
    sums: Float[Tensor, "documents"], counts: Float[Tensor, "documents"]
) -> Estimate:
    """Σ sums / Σ counts and its linearised standard error, documents being the clusters."""
    seen = counts > 0
    n, total = int(seen.sum()), counts.sum()
    if not n:
        return Estimate(math.nan, math.nan)
    mean = float(sums.sum() / total)
    if n < 2:
        return Estimate(mean, math.nan)
    deviations = sums[seen] - mean * counts[seen]
    return Estimate(mean, float((deviations.square().sum() * n / (n - 1)).sqrt() / total))


def _grown(totals: Float[Tensor, "before"], size: int) -> Float[Tensor, "after"]:
    if size <= len(totals):
        return totals
    room = max(size, 2 * len(totals))  # doubling: a document a time would copy them all each time
    return torch.cat([totals, totals.new_zeros(room - len(totals))])
