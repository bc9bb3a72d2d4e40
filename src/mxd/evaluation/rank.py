"""Rank of the experts W_n = D diag(c_n), without making them all at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mxd.errors import UserError
from mxd.layers import MxD
from mxd.layers.spectrum import decoder_core, expert_singular_values, in_double


@dataclass(frozen=True, kw_only=True)
class ExpertRanks:
    """Singular values of experts, and bounds that hold for all of them (paper, section 5)."""

    experts: list[int]
    """The experts that were decomposed."""
    normalised_rank: list[float]
    """rank(W_n) / min(H, O) of each, with NumPy's tolerance σ_max · max(H, O) · ε."""
    smallest_singular_value: list[float]
    """σ_min(W_n) of each."""
    largest_singular_value: list[float]
    """σ_max(W_n) of each."""
    effective_rank: list[float]
    """exp of the entropy of σ / Σσ (Roy & Vetterli, 2007) of each."""
    mean_normalised_rank: float
    """Mean over those experts."""
    min_normalised_rank: float
    """The least of them."""
    mean_smallest_singular_value: float
    """Mean over those experts."""
    min_smallest_singular_value: float
    """The least of them."""
    mean_effective_rank: float
    """Mean over those experts."""
    min_effective_rank: float
    """The least of them."""
    tolerance: float
    """max(H, O) · ε: singular values up to this share of the largest count as zero."""
    decoder_normalised_rank: float
    """rank(D) / min(H, O), which no expert exceeds."""
    decoder_effective_rank: float
    """Effective rank of D."""
    decoder_smallest_singular_value: float
    """σ_min(D)."""
    decoder_largest_singular_value: float
    """σ_max(D)."""
    zeroed_modulators: int
    """Experts, among all, whose whole modulator is zero beside the largest."""
    zeroed_examples: list[int]
    """The first twenty of those."""
    modulators_with_zeros: int
    """Experts, among all, with a column that is negligible beside their largest."""
    min_rank_bound: float
    """What the normalised rank of each expert cannot exceed (rank(D), and its columns that are
    not negligible); the least over all experts."""
    min_singular_value_bound: float
    """σ_min(D) · min |c_nj| over all experts: no smallest singular value is below this."""


@torch.no_grad()
def expert_ranks(
    layer: MxD, *, experts: int | Sequence[int] | None = 64, seed: int = 0
) -> ExpertRanks | None:
    """Rank, smallest singular value and effective rank of experts (paper, section 5).

    No W_n is made (`mxd.layers.spectrum`), and all is done in float64. The tolerance is what
    NumPy's `matrix_rank` takes for a matrix of the layer's own precision, or of float32 where that
    is coarser.

    Args:
        layer: an MxD with H hidden units and O outputs.
        experts: how many to draw, which ones, or None for all.
        seed: of the draw.

    Returns:
        None where a weight is not finite: the layer's training diverged.

    Raises:
        UserError: an expert that the layer does not have, or none.
    """
    chosen = chosen_experts(layer.config.n_experts, experts, seed)
    decoder, rows = in_double(layer.decoder), in_double(layer.modulators)
    if not (decoder.isfinite().all() and rows.isfinite().all()):
        return None
    h, o = decoder.shape
    precise = layer.decoder.dtype == torch.float64
    tolerance = max(h, o) * torch.finfo(torch.float64 if precise else torch.float32).eps
    core = decoder_core(decoder)
    values = expert_singular_values(core, rows[torch.tensor(chosen, device=rows.device)])
    own = torch.linalg.svdvals(core)
    ranks = _ranks(values, tolerance) / min(h, o)
    effective = effective_rank(values)
    negligible, zeroed = _negligible(rows, decoder.norm(dim=0), tolerance)
    decoder_rank = float(_ranks(own[None], tolerance)[0])
    present = (o - negligible.sum(-1)).clamp(max=decoder_rank)
    return ExpertRanks(
        experts=chosen,
        normalised_rank=ranks.tolist(),
        smallest_singular_value=values[:, -1].tolist(),
        largest_singular_value=values[:, 0].tolist(),
        effective_rank=effective.tolist(),
        mean_normalised_rank=float(ranks.mean()),
        min_normalised_rank=float(ranks.min()),
        mean_smallest_singular_value=float(values[:, -1].mean()),
        min_smallest_singular_value=float(values[:, -1].min()),
        mean_effective_rank=float(effective.mean()),
        min_effective_rank=float(effective.min()),
        tolerance=tolerance,
        decoder_normalised_rank=decoder_rank / min(h, o),
        decoder_effective_rank=float(effective_rank(own[None])[0]),
        decoder_smallest_singular_value=float(own[-1]),
        decoder_largest_singular_value=float(own[0]),
        zeroed_modulators=int(zeroed.sum()),
        zeroed_examples=zeroed.nonzero().flatten().tolist()[:20],
        modulators_with_zeros=int(negligible.any(-1).sum()),
        min_rank_bound=float(present.min()) / min(h, o),
        min_singular_value_bound=float(own[-1] * rows.abs().amin()),
    )


def chosen_experts(available: int, experts: int | Sequence[int] | None, seed: int) -> list[int]:
    """Numbers of experts: a seeded draw without repetition, those given, or all.

    Raises:
        UserError: an expert that there is not, or none.
    """
    if experts is None:
        return list(range(available))
    if isinstance(experts, int):
        if experts < 1:
            raise UserError(f"got {experts} experts to look at, expected at least 1, or None: all")
        drawn = np.random.default_rng(seed).choice(
            available, min(experts, available), replace=False
        )
        return sorted(drawn.tolist())
    wrong = [n for n in experts if not 0 <= n < available]
    if wrong or not experts:
        raise UserError(
            f"got experts {wrong or list(experts)}, expected some of 0 to {available - 1}"
        )
    return list(experts)


def effective_rank(
    values: Float[Tensor, "matrices singular_values"],
) -> Float[Tensor, "matrices"]:
    """exp(−Σ p log p) with p = σ / Σσ (Roy & Vetterli, 2007); 0 for a matrix of zeros."""
    total = values.sum(-1, keepdim=True)
    shares = values / torch.where(total > 0, total, torch.ones_like(total))
    entropy = -torch.special.xlogy(shares, shares).sum(-1)
    return torch.where(total.squeeze(-1) > 0, entropy.exp(), torch.zeros_like(entropy))


def _ranks(
    values: Float[Tensor, "matrices singular_values"], tolerance: float
) -> Float[Tensor, "matrices"]:
    return (values > tolerance * values[:, :1]).sum(-1).double()


def _negligible(
    rows: Float[Tensor, "experts d_out"], norms: Float[Tensor, "d_out"], tolerance: float
) -> tuple[Bool[Tensor, "experts d_out"], Bool[Tensor, "experts"]]:
    """Columns of each W_n that cannot raise its rank, and experts that are zero altogether.

    If m columns have norms of at most τ σ / √O, where σ is the largest column's norm, then
    together they have a norm of at most τ σ ≤ τ σ_max, so the rank with tolerance τ is at most
    O − m.
    """
    columns = rows.abs() * norms
    largest = columns.amax(-1, keepdim=True)
    negligible = columns <= tolerance * largest / columns.shape[-1] ** 0.5
    sizes = rows.abs().amax(-1)
    return negligible, sizes <= tolerance * sizes.max()
