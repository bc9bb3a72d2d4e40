"""Units worth seeing, and contexts in which they fire, taken from several levels of activation."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mxd.evaluation.firing import Firing

LEVELS = (1.0, 0.9, 0.75, 0.5, 0.25)
"""Quantiles of a unit's activations that examples are taken from, the strongest first."""


@dataclass(frozen=True)
class Example:
    """One context with the active token marked out."""

    before: str
    """Text before the active token."""
    token: str
    """The active token."""
    after: str
    """Text after it."""
    value: float
    """Coefficient there."""
    level: float
    """Quantile of the unit's activations that it was taken from; 1 is the maximum."""


@dataclass(frozen=True)
class UnitExamples:
    """A unit with contexts it fires in."""

    unit: int
    """Number of the unit."""
    frequency: float
    """Share of tokens on which it fires."""
    largest: float
    """Its largest coefficient."""
    selectivity: float
    """Nats by which its tokens differ from the text's (KL of their distributions)."""
    examples: list[Example]
    """Contexts, the strongest first."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def selectivity(firing: Firing) -> Float[Tensor, "units"]:
    """How far the tokens a unit fires on differ from the text's tokens, in nats.

    KL(p ‖ q) of the unit's token distribution p, weighted by its coefficients, against the text's
    q. A unit that is always on has 0, one that fires on a single kind of token has −log q of it.
    """
    tokens = firing.tokens.flatten()
    vocabulary = int(tokens.max()) + 1
    share = torch.bincount(tokens, minlength=vocabulary).double() / len(tokens)
    units = torch.repeat_interleave(torch.arange(len(firing.counts)), firing.counts)
    mass = torch.zeros(len(firing.counts), dtype=torch.float64)
    mass.index_add_(0, units, firing.values.double())
    pairs, inverse = torch.unique(units * vocabulary + tokens[firing.places], return_inverse=True)
    weight = torch.zeros(len(pairs), dtype=torch.float64)
    weight.index_add_(0, inverse, firing.values.double())
    unit, token = pairs // vocabulary, pairs % vocabulary
    p = weight / mass[unit]
    result = torch.zeros_like(mass)
    result.index_add_(0, unit, p * (p / share[token]).log())
    return result


def units_worth_seeing(
    firing: Firing,
    count: int = 3,
    *,
    dull_token_ids: Collection[int] = (),
    least: int = 20,
    most_share: float = 0.05,
) -> list[int]:
    """Units that are selective and yet not rare, each most active on another token.

    Selectivity · log(1 + firings) ranks them, among units that fire at least `least` times and on
    at most `most_share` of all tokens, and on at least three kinds of token. Those that fire
    mostly on one of `dull_token_ids` (special tokens, say) are passed over.
    """
    counts, tokens = firing.counts, firing.tokens.flatten()
    score = selectivity(firing) * counts.double().log1p()
    score[(counts < least) | (counts > most_share * len(tokens))] = 0
    chosen: list[int] = []
    taken = set(dull_token_ids)
    for unit in score.argsort(descending=True, stable=True).tolist():
        if len(chosen) == count or score[unit] == 0:
            break
        kinds, often = tokens[firing.of(unit)[0]].unique(return_counts=True)
        favourite = int(kinds[often.argmax()])
        if favourite in taken or len(kinds) < 3:
            continue
        taken.add(favourite)
        chosen.append(unit)
    return chosen


def show_unit(
    firing: Firing,
    unit: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    levels: tuple[float, ...] = LEVELS,
    radius: int = 12,
) -> UnitExamples:
    """A unit's contexts, one from each level of its activations, no token shown twice.

    Args:
        firing: where the units fire.
        unit: number of the unit.
        tokenizer: the model's tokenizer.
        levels: quantiles of the unit's activations, 1 the maximum.
        radius: tokens shown on either side.
    """
    places, values = firing.of(unit)
    order = values.argsort(descending=True, stable=True)
    last = len(order) - 1
    ranks: dict[int, float] = {}
    for level in levels:  # a unit that fires rarely has fewer examples, none twice
        ranks.setdefault(min(last, round((1 - level) * last)), level)
    examples = [
        _example(
            firing, int(places[order[rank]]), float(values[order[rank]]), level, tokenizer, radius
        )
        for rank, level in ranks.items()
        if rank >= 0
    ]
    return UnitExamples(
        unit=unit,
        frequency=len(places) / firing.tokens.numel(),
        largest=float(values.max()) if len(values) else 0.0,
        selectivity=float(selectivity(firing)[unit]),
        examples=examples,
    )


def _example(
    firing: Firing,
    place: int,
    value: float,
    level: float,
    tokenizer: PreTrainedTokenizerBase,
    radius: int,
) -> Example:
    length = firing.tokens.shape[1]
    row, at = firing.tokens[place // length].tolist(), place % length
    before, after = row[max(0, at - radius) : at], row[at + 1 : at + 1 + radius]

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    return Example(text(before), text([row[at]]), text(after), value, level)
