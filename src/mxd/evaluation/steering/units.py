"""Which units a study steers: those that are alive, and how large their coefficients get."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mxd.errors import UserError
from mxd.evaluation.firing import Firing

Choice = Literal["live", "first", "random"]


@dataclass(frozen=True)
class ChosenUnits:
    """The units of a layer that are steered."""

    units: list[int]
    """Their numbers."""
    maxima: list[float]
    """The largest coefficient of each on held-out text; 0 where it never fires."""
    dead: list[int]
    """Those of the chosen that never fired."""
    dead_skipped: int
    """Units passed over because they never fired."""


def largest_coefficients(firing: Firing) -> Float[Tensor, "units"]:
    """The largest coefficient of each unit; 0 for one that never fires."""
    count = len(firing.counts)
    units = torch.repeat_interleave(torch.arange(count), firing.counts)
    return torch.zeros(count).scatter_reduce_(0, units, firing.values, "amax")


def choose_units(
    firing: Firing, count: int, how: Choice = "live", *, seed: int = 42
) -> ChosenUnits:
    """Units to steer.

    Args:
        firing: where the units fire on held-out text.
        count: how many; a layer with fewer gives what it has.
        how: `live`: the first that fire on that text. `first`: the first there are, dead or not,
            as the paper takes them. `random`: a random choice of those that fire.
        seed: of the random choice.

    Raises:
        UserError: no unit fires.
    """
    largest = largest_coefficients(firing)
    alive = (largest > 0).nonzero().flatten().tolist()
    if not alive:
        raise UserError(
            f"got {len(largest)} units of which none fires on {firing.tokens.numel()} tokens of "
            "held-out text, expected some alive; read more with --tokens"
        )
    if how == "first":
        units = list(range(min(count, len(largest))))
    elif how == "random":
        units = sorted(np.random.default_rng(seed).permutation(alive)[:count].tolist())
    else:
        units = alive[:count]
    dead = [unit for unit in units if not largest[unit] > 0]
    passed = units[-1] + 1 - len(units) if how == "live" else 0
    return ChosenUnits(units, [float(largest[unit]) for unit in units], dead, passed)
