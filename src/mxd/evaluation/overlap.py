"""How much of what units fire on they share, against what chance would share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Likeness of units in one respect, from 0 (nothing in common) to 1 (the same)."""

    mean: float
    """Mean over all pairs of units."""
    nearest: float
    """Mean over units of the likeness with the most alike other."""
    chance_mean: float
    """Mean over pairs, where each unit's firings stand at places drawn from all units' firings."""
    chance_nearest: float
    """Mean of the most alike, likewise."""


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """What the most used units share."""

    units: int
    """Units compared: the most used ones that are alive."""
    token_sets: Overlap
    """Jaccard index of the sets of token types that units fire on."""
    token_mass: Overlap
    """Weighted Jaccard index of the distributions of their coefficients over token types."""
    positions: Overlap
    """Jaccard index of the sets of positions where they fire: how often they fire together."""


def overlaps(
    tokens: Ints, unit: Ints, place: Ints, value: Floats, *, units: int, seed: int = 0
) -> Overlaps | None:
    """What units share of the tokens they fire on.

    Args:
        tokens: token id at each position.
        unit: which unit fires, 0 to `units` − 1, for each firing.
        place: at which position.
        value: with which coefficient.
        units: how many units there are.
        seed: of the permutation that gives the chance level: it keeps how many firings each unit
            has and what they are worth, and deals the positions anew. A position that falls to a
            unit twice counts once in its sets, so units that are nearly always on have a chance
            level that is somewhat too low.

    Returns:
        None with fewer than two units.
    """
    if units < 2 or not len(unit):
        return None
    kinds, kind = np.unique(tokens, return_inverse=True)
    dealt = np.random.default_rng(seed).permutation(place)
    real, chance = (
        _likeness(kind[at], len(kinds), unit, at, value, units) for at in (place, dealt)
    )
    found = [
        Overlap(**_pair(a, ""), **_pair(b, "chance_")) for a, b in zip(real, chance, strict=True)
    ]
    return Overlaps(units=units, token_sets=found[0], token_mass=found[1], positions=found[2])


def _likeness(
    kind: Ints, kinds: int, unit: Ints, place: Ints, value: Floats, units: int
) -> tuple[Floats, Floats, Floats]:
    """Units × units: by token sets, by token mass, by positions."""
    mass = csr_array((value, (unit, kind)), shape=(units, kinds))
    fires = csr_array((np.ones_like(value), (unit, place)), shape=(units, int(place.max()) + 1))
    return _jaccard(mass), _weighted_jaccard(mass), _jaccard(fires)


def _jaccard(matrix: csr_array) -> Floats:
    """|A ∩ B| / |A ∪ B| of the rows' supports."""
    matrix.sum_duplicates()
    support = csr_array((np.ones_like(matrix.data), matrix.indices, matrix.indptr), matrix.shape)
    shared: Floats = (support @ support.T).toarray()
    sizes = np.diag(shared)
    union = sizes[:, None] + sizes[None] - shared
    result: Floats = shared / np.maximum(union, 1)
    return result


def _weighted_jaccard(matrix: csr_array) -> Floats:
    """Σ min(p, q) / Σ max(p, q) of the rows as shares p, q.

    Both sum to one, so with L = Σ|p − q| it is (1 − L / 2) / (1 + L / 2).
    """
    dense = matrix.toarray()
    total = dense.sum(1, keepdims=True)
    share = dense / np.where(total > 0, total, 1)
    half = cdist(share, share, "cityblock") / 2
    result: Floats = (1 - half) / (1 + half)
    return result


def _pair(likeness: Floats, prefix: str) -> dict[str, float]:
    others = likeness[~np.eye(len(likeness), dtype=bool)].reshape(len(likeness), -1)
    return {f"{prefix}mean": float(others.mean()), f"{prefix}nearest": float(others.max(1).mean())}
