"""Who does the work in a layer: how often units fire, what they carry, what they share."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mxd.evaluation.firing import Firing
from mxd.evaluation.overlap import Overlaps, overlaps
from mxd.evaluation.reconstruction import normalised_entropy
from mxd.layers import SparseLayer

ALWAYS_ON = 0.9
"""A unit that fires on more than this share of tokens is always on."""
BINS_PER_DECADE = 4
"""Bins of the histogram of firing frequencies for each factor of ten."""


@dataclass(frozen=True, kw_only=True)
class Specialisation:
    """How a layer divides the work among its units."""

    tokens: int
    """Tokens counted."""
    units: int
    """Units there are."""
    l0: float
    """Mean number of active units."""
    dead: int
    """Units that never fired."""
    dead_fraction: float
    """Their share."""
    usage_entropy: float
    """Entropy of how often the units fire, over log N: 1 is even use."""
    max_frequency: float
    """Share of tokens on which the most frequent unit fires."""
    always_on: list[int]
    """Units that fire on more than 90 % of tokens."""
    above_10pct: int
    """Units that fire on more than 10 % of tokens."""
    log10_frequency_edges: list[float]
    """Edges of the histogram of log10 firing frequency (share of tokens)."""
    log10_frequency_counts: list[int]
    """Units in each bin; dead ones are in none."""
    share_of_top_1: float
    """Share of Σ‖a_n c_n‖ that the most frequent unit carries."""
    share_of_top_10: float
    """… the ten most frequent."""
    share_of_top_1pct: float
    """… the most frequent hundredth of the units, at least one."""
    share_of_top_10pct: float
    """… the most frequent tenth of the units, at least one."""
    overlap: Overlaps | None
    """What the most used units share; None with fewer than two alive."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@torch.no_grad()
def specialisation(
    layer: SparseLayer,
    firing: Firing,
    *,
    excluded_token_ids: Sequence[int] = (),
    overlap_units: int = 200,
    seed: int = 0,
) -> Specialisation:
    """Usage, shares and overlap of a layer's units.

    Args:
        layer: the layer.
        firing: where its units fire.
        excluded_token_ids: tokens that are not counted; nor are those it was trained without.
        overlap_units: of how many of the most used units to compare what they fire on.
        seed: of the permutation that the overlaps are compared with.
    """
    tokens = firing.tokens.flatten()
    left_out = {*excluded_token_ids, *layer.provenance.excluded_token_ids}
    counted = ~torch.isin(tokens, torch.tensor(sorted(left_out), dtype=tokens.dtype))
    unit = torch.repeat_interleave(torch.arange(len(firing.counts)), firing.counts)
    kept = counted[firing.places]
    unit, place, value = unit[kept], firing.places[kept], firing.values[kept].double()
    fired = torch.bincount(unit, minlength=layer.config.n_units).double()
    norms = torch.linalg.vector_norm(layer.unit_rows, dim=-1, dtype=torch.float64).cpu()
    mass = torch.zeros_like(fired).index_add_(0, unit, value * norms[unit])
    total = int(counted.sum())
    frequency = fired / max(1, total)
    tenth, hundredth = (math.ceil(len(fired) / part) for part in (10, 100))
    shares = _carried(fired, mass, (1, 10, hundredth, tenth))
    edges, counts = _histogram(frequency.numpy(), total)
    return Specialisation(
        tokens=total,
        units=len(fired),
        l0=float(fired.sum()) / max(1, total),
        dead=int((fired == 0).sum()),
        dead_fraction=float((fired == 0).double().mean()),
        usage_entropy=normalised_entropy(fired),
        max_frequency=float(frequency.max()),
        always_on=(frequency > ALWAYS_ON).nonzero().flatten().tolist(),
        above_10pct=int((frequency > 0.1).sum()),
        log10_frequency_edges=edges,
        log10_frequency_counts=counts,
        share_of_top_1=shares[0],
        share_of_top_10=shares[1],
        share_of_top_1pct=shares[2],
        share_of_top_10pct=shares[3],
        overlap=_overlap(tokens, unit, place, value, fired, overlap_units, seed),
    )


def _carried(
    fired: Float[Tensor, "units"], mass: Float[Tensor, "units"], most: Sequence[int]
) -> list[float]:
    """The shares of the mass that the m most frequent units carry; of equals the heaviest first."""
    order = np.lexsort((-mass.numpy(), -fired.numpy()))
    sums, total = mass.numpy()[order].cumsum(), float(mass.sum())
    return [float(sums[min(m, len(sums)) - 1]) / total if total else 0.0 for m in most]


def _histogram(frequency: NDArray[np.float64], tokens: int) -> tuple[list[float], list[int]]:
    """Counts of log10 frequency in quarter decades, from one firing in all tokens up to 1."""
    decades = max(1, math.ceil(math.log10(max(tokens, 1))))
    edges = np.linspace(-decades, 0, decades * BINS_PER_DECADE + 1)
    counts, _ = np.histogram(np.log10(frequency[frequency > 0]), edges)
    return [float(edge) for edge in edges], [int(count) for count in counts]


def _overlap(
    tokens: Int[Tensor, "tokens"],
    unit: Int[Tensor, "firings"],
    place: Int[Tensor, "firings"],
    value: Float[Tensor, "firings"],
    fired: Float[Tensor, "units"],
    wanted: int,
    seed: int,
) -> Overlaps | None:
    """Overlaps among the most used units that are alive."""
    chosen = fired.argsort(descending=True, stable=True)[: min(wanted, int((fired > 0).sum()))]
    number = torch.full((len(fired),), -1)
    number[chosen] = torch.arange(len(chosen))
    kept = number[unit] >= 0
    return overlaps(
        tokens.numpy(),
        number[unit][kept].numpy(),
        place[kept].numpy(),
        value[kept].numpy(),
        units=len(chosen),
        seed=seed,
    )
