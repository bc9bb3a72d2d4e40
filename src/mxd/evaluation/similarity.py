"""How alike units are, in memory that does not grow with N²."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK_ELEMENTS = 1 << 23
"""Cosines that are held at once: 32 MiB in float32."""
TWIN = 0.95
"""A unit with another at this cosine or more has a twin."""
EDGES = np.linspace(-1, 1, 41)
"""Edges of the histogram of cosines."""


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Cosines between the rows of units."""

    units: int
    """Units compared: those with a row that is not zero."""
    mean_cosine: float
    """Mean over all pairs of two units."""
    nearest_of: Int[Tensor, "queries"]
    """The units whose nearest other was looked for (not part of the document)."""
    nearest_unit: Int[Tensor, "queries"]
    """The nearest other of each (not part of the document)."""
    nearest_cosine: Float[Tensor, "queries"]
    """Its cosine (not part of the document)."""

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON: means, quantiles and a histogram of the nearest others' cosines."""
        cosines = self.nearest_cosine.numpy()
        counts, edges = np.histogram(cosines.clip(-1, 1), EDGES)
        return {
            "units": self.units,
            "mean_cosine": self.mean_cosine,
            "queries": len(cosines),
            "mean_nearest_cosine": self.mean_nearest_cosine,
            "median_nearest_cosine": float(np.median(cosines)),
            "max_nearest_cosine": float(cosines.max()),
            "twin_share": self.twin_share,
            "nearest_cosine_edges": [round(float(edge), 2) for edge in edges],
            "nearest_cosine_counts": counts.tolist(),
        }

    @property
    def mean_nearest_cosine(self) -> float:
        """Mean cosine with the nearest other."""
        return float(self.nearest_cosine.double().mean())

    @property
    def twin_share(self) -> float:
        """Share of units whose nearest other is at `TWIN` or more."""
        return float((self.nearest_cosine >= TWIN).double().mean())


@torch.no_grad()
def unit_similarity(
    rows: Float[Tensor, "units d_out"],
    *,
    weights: Float[Tensor, "d_out"] | None = None,
    among: Int[Tensor, "chosen"] | None = None,
    queries: int | None = 2048,
    seed: int = 0,
) -> Similarity | None:
    """Cosines between units' rows; every unit's nearest other.

    With the column norms of D as weights, the cosine of modulators c_n and c_m is the Frobenius
    cosine of W_n and W_m, since ⟨W_n, W_m⟩ = Σ_j c_nj c_mj ‖d_j‖².

    Args:
        rows: modulators or decoder rows, (N, O).
        weights: what to multiply their columns with first.
        among: which units to compare; None takes all.
        queries: of how many units to find the nearest other, drawn at random; None takes all.
        seed: of the draw.

    Returns:
        None where fewer than two units have a row that is finite and not zero.
    """
    chosen = torch.arange(len(rows)) if among is None else among.cpu()
    picked = rows.detach()[chosen.to(rows.device)]
    picked = picked if picked.dtype == torch.float64 else picked.float()
    if weights is not None:
        picked = picked * weights.to(picked)
    norms = picked.norm(dim=-1, keepdim=True)
    alive = (norms.squeeze(-1) > 0) & norms.squeeze(-1).isfinite()
    chosen, unit = chosen[alive.cpu()], (picked / norms)[alive]
    count = len(unit)
    if count < 2:
        return None
    asked = np.arange(count)
    if queries is not None and queries < count:
        asked = np.sort(np.random.default_rng(seed).choice(count, queries, replace=False))
    asked_for = torch.from_numpy(asked)
    nearest, cosine = _nearest(unit, asked_for)
    total = float(unit.double().sum(0).square().sum())  # ‖Σu‖² is the sum of all cosines
    return Similarity(
        units=count,
        mean_cosine=(total - count) / (count * (count - 1)),
        nearest_of=chosen[asked_for],
        nearest_unit=chosen[nearest],
        nearest_cosine=cosine,
    )


def _nearest(
    unit: Float[Tensor, "units d_out"], queries: Int[Tensor, "queries"]
) -> tuple[Int[Tensor, "queries"], Float[Tensor, "queries"]]:
    """The nearest other of each query and its cosine, a block of queries at a time."""
    found, cosines = [], []
    for block in queries.split(max(1, _BLOCK_ELEMENTS // len(unit))):
        block = block.to(unit.device)
        products = unit[block] @ unit.T
        products[torch.arange(len(block), device=unit.device), block] = -torch.inf  # itself
        best, where = products.max(-1)
        found.append(where.cpu())
        cosines.append(best.cpu())
    return torch.cat(found), torch.cat(cosines)
