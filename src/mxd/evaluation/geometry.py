"""The geometry of a layer's units: rank of experts, and likeness among units."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from mxd.evaluation.rank import ExpertRanks, chosen_experts, expert_ranks
from mxd.evaluation.similarity import Similarity, unit_similarity
from mxd.layers import MxD, SparseLayer


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Rank of a layer's experts, and how alike its units are."""

    rank: ExpertRanks | None
    """Ranks; None for a layer whose units have no matrix of their own, or where not asked for."""
    similarity: Similarity | None
    """Cosines of modulators or decoder rows; None with fewer than two units to compare."""
    weighted_similarity: Similarity | None
    """Of modulators weighted by the column norms of D: Frobenius cosines of W_n and W_m."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        both = (self.similarity, self.weighted_similarity)
        plain, weighted = (None if one is None else one.to_dict() for one in both)
        return {
            "rank": None if self.rank is None else asdict(self.rank),
            "similarity": plain,
            "weighted_similarity": weighted,
        }


@torch.no_grad()
def geometry(
    layer: SparseLayer,
    *,
    experts: int | Sequence[int] | None = 64,
    live: Bool[Tensor, "units"] | None = None,
    seed: int = 0,
) -> Geometry:
    """Ranks of a sample of experts, bounds for all, and likeness among units.

    Args:
        layer: the layer; ranks are an MxD's alone.
        experts: how many experts to decompose (drawn among the live ones), which ones, None for
            all, or 0 to leave ranks out.
        live: which units fire; only those are drawn and compared, since a dead one is still where
            it was initialised. None takes all.
        seed: of the draw.

    Raises:
        UserError: an expert that the layer does not have.
    """
    among = torch.arange(layer.config.n_units) if live is None else live.cpu().nonzero().flatten()
    similarity = unit_similarity(layer.unit_rows, among=among, seed=seed)
    if not isinstance(layer, MxD):
        return Geometry(rank=None, similarity=similarity, weighted_similarity=None)
    norms = layer.decoder.detach().double().norm(dim=0)
    weighted = unit_similarity(layer.modulators, weights=norms, among=among, seed=seed)
    return Geometry(
        rank=_ranks(layer, experts, among.tolist(), seed),
        similarity=similarity,
        weighted_similarity=weighted,
    )


def _ranks(
    layer: MxD, experts: int | Sequence[int] | None, among: list[int], seed: int
) -> ExpertRanks | None:
    if experts == 0:
        return None
    if among and (experts is None or isinstance(experts, int)):
        experts = [among[place] for place in chosen_experts(len(among), experts, seed)]
    return expert_ranks(layer, experts=experts, seed=seed)
