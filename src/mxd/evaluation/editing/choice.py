"""What a study edits: which rankings, how many units at once, and the random controls beside."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mxd.errors import UserError
from mxd.evaluation.editing.ranking import (
    UnitTotals,
    attribution,
    best,
    drawn,
    matched,
    probing,
)

RANKINGS = ("attribution", "probing")
SIZES = (1, 4, 16, 64)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is done to every layer."""

    scale: float
    """Factor of the units' contributions."""
    rankings: tuple[str, ...]
    """How units are chosen; the matched control is matched to the first."""
    sizes: tuple[int, ...]
    """How many units are edited at once, each in turn."""
    random_draws: int
    """Draws of each random control."""
    seed: int
    """Seed of those."""
    excluded: tuple[int, ...]
    """Tokens that do not count."""


@dataclass(frozen=True)
class Choice:
    """One set of units, and why it was chosen."""

    ranking: str
    m: int
    draw: int | None
    units: tuple[int, ...]


def checked_plan(
    scale: float,
    rankings: Sequence[str],
    sizes: Sequence[int],
    random_draws: int,
    seed: int,
    excluded: Sequence[int],
) -> Plan:
    """A plan, or a refusal.

    Raises:
        UserError: an edit that changes nothing, unknown rankings, sizes or draws out of range.
    """
    if not math.isfinite(scale) or scale == 1:
        raise UserError(f"got scale={scale}, expected a finite factor other than 1, such as 0")
    unknown = [name for name in rankings if name not in RANKINGS]
    if unknown or not rankings:
        raise UserError(f"got rankings {list(rankings)}, expected some of {', '.join(RANKINGS)}")
    if not sizes or min(sizes) < 1:
        raise UserError(f"got sizes {list(sizes)}, expected numbers of units from 1 up")
    if random_draws < 0:
        raise UserError(f"got random_draws={random_draws}, expected 0 or more")
    if seed < 0:
        raise UserError(f"got seed={seed}, expected 0 or more")
    ordered = tuple(sorted(set(sizes)))
    names = tuple(dict.fromkeys(rankings))
    return Plan(float(scale), names, ordered, random_draws, seed, tuple(excluded))


def choose(name: str, target: UnitTotals, keep: UnitTotals, plan: Plan) -> list[Choice]:
    """Every set of units to edit in a layer; none where no unit fires.

    Args:
        name: the layer, for a warning.
        target: sums over the target text's ranking half.
        keep: sums over the other's.
        plan: what to do.
    """
    counts = target.fired + keep.fired
    live = counts.nonzero().flatten().tolist()
    if not live:
        _logger.warning("no unit of %s fires on these texts: it has nothing to edit", name)
        return []
    scores = {
        "attribution": attribution(target, keep, plan.scale),
        "probing": probing(target, keep),
    }
    chosen: list[Choice] = []
    for m in plan.sizes:
        top = {ranking: best(scores[ranking], live, m) for ranking in plan.rankings}
        chosen += [Choice(ranking, m, None, units) for ranking, units in top.items()]
        for draw in range(plan.random_draws):  # a draw's sets of different sizes are nested
            generator = np.random.default_rng([plan.seed, draw])
            chosen.append(Choice("random", m, draw, drawn(live, m, generator)))
            generator = np.random.default_rng([plan.seed, draw, 1])
            alike = matched(top[plan.rankings[0]], live, counts, generator)
            if alike:
                chosen.append(Choice("random_matched", m, draw, alike))
    return chosen
