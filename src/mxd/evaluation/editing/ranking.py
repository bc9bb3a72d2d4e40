"""Which units to edit: by their effect on the loss, by where they fire, or at random."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mxd.data import Contexts
from mxd.evaluation.editing.bench import Bench, Pass, among, codes_of, output_of
from mxd.evaluation.prediction import token_losses
from mxd.layers import Codes, SparseLayer

_NEIGHBOURS = 10
"""Units of the nearest firing frequency that a matched control is drawn from."""


@dataclass(frozen=True)
class UnitTotals:
    """Sums over the tokens of one text, for each unit, in float64."""

    tokens: int
    """Tokens that codes were taken at."""
    predicted: int
    """Next tokens that losses were taken at."""
    fired: Float[Tensor, "units"]
    """How often the unit fired."""
    sums: Float[Tensor, "units"]
    """Σ a."""
    squares: Float[Tensor, "units"]
    """Σ a²."""
    slopes: Float[Tensor, "units"]
    """Σ a ∂CE/∂a, CE the summed cross-entropy: what the unit's contribution is worth, with the
    opposite sign, to first order."""


def unit_totals(
    bench: Bench, layer: SparseLayer, contexts: Iterable[Contexts], *, attribute: bool = True
) -> UnitTotals:
    """Run the model with the layer in place over a text, and backwards through it once a batch.

    The output is linear in the coefficients, so a_n ∂CE/∂a_n is the product of the gradient at the
    output with the unit's whole contribution: a_n (c_n ⊙ Dᵀz) for an MxD, a_n d_n for the others.

    Args:
        bench: the model and the site.
        layer: the layer.
        contexts: the text.
        attribute: whether to take gradients; without, `slopes` are zero.
    """
    units = layer.config.n_units
    fired, sums, squares, slopes = torch.zeros(4, units, dtype=torch.float64)
    tokens = predicted = 0
    for seen in bench.passes(contexts):
        codes = codes_of(layer, seen)
        counted = ~among(seen.tokens, bench.excluded)
        where, values = codes.indices.cpu().flatten(), codes.values.double().cpu()
        values = (values * counted.cpu().unsqueeze(-1)).flatten()
        fired.index_add_(0, where, (values > 0).double())
        sums.index_add_(0, where, values)
        squares.index_add_(0, where, values.square())
        tokens += int(counted.sum())
        predicted += int(seen.wanted.sum())
        if attribute:
            slopes.index_add_(0, where, _slopes(bench, layer, seen, codes).flatten())
    return UnitTotals(tokens, predicted, fired, sums, squares, slopes)


def _slopes(bench: Bench, layer: SparseLayer, seen: Pass, codes: Codes) -> Tensor:
    """a ∂CE/∂a of each code, CE summed over the batch's predicted tokens; float64, on the CPU."""
    with torch.enable_grad():
        values = codes.values.detach().requires_grad_()
        output = output_of(layer, seen, Codes(values, codes.indices, codes.n_units))
        logits = bench.logits(seen.tokens, output)
        loss = token_losses(logits, seen.tokens, seen.wanted).sum()
        (gradient,) = torch.autograd.grad(loss, values)
    return (gradient * codes.values).double().cpu()


def attribution(target: UnitTotals, keep: UnitTotals, scale: float) -> Float[Tensor, "units"]:
    """First-order rise of the cross-entropy from scaling a unit: on target less on keep, per token.

    (scale − 1) Σ_t (∂CE/∂ŷ_t) · contribution_n,t, which for a scale of 0 is removal.
    """
    mine, other = (each.slopes / max(1, each.predicted) for each in (target, keep))
    return (scale - 1) * (mine - other)


def probing(target: UnitTotals, keep: UnitTotals) -> Float[Tensor, "units"]:
    """Difference of a unit's mean coefficient between the texts, in its standard deviation.

    The deviation is the root of the mean of the two variances; a constant unit has 0.
    """
    means, variances = [], []
    for each in (target, keep):
        mean = each.sums / max(1, each.tokens)
        means.append(mean)
        variances.append((each.squares / max(1, each.tokens) - mean.square()).clamp_min(0))
    deviation = torch.stack(variances).mean(0).sqrt()
    difference = means[0] - means[1]
    return torch.where(deviation > 0, difference / deviation, torch.zeros_like(difference))


def best(scores: Float[Tensor, "units"], live: Sequence[int], m: int) -> tuple[int, ...]:
    """The m live units of the highest score; of equal ones, the first."""
    units = torch.tensor(live, dtype=torch.int64)
    order = scores[units].argsort(descending=True, stable=True)[:m]
    return tuple(units[order].tolist())


def drawn(live: Sequence[int], m: int, generator: np.random.Generator) -> tuple[int, ...]:
    """m live units at random."""
    chosen: list[int] = generator.permutation(np.asarray(live, dtype=np.int64))[:m].tolist()
    return tuple(chosen)


def matched(
    chosen: Sequence[int],
    live: Sequence[int],
    counts: Float[Tensor, "units"],
    generator: np.random.Generator,
) -> tuple[int, ...]:
    """For each chosen unit another that fires about as often, none of them chosen or taken twice.

    It is drawn from the ten unused units whose count is nearest on a logarithmic scale.
    """
    often = counts.double().log1p().numpy()
    free = [unit for unit in live if unit not in set(chosen)]
    taken: list[int] = []
    for unit in chosen:
        if not free:
            break
        distance = np.abs(often[np.asarray(free)] - often[unit])
        near = np.argsort(distance, kind="stable")[:_NEIGHBOURS]
        taken.append(free.pop(int(generator.choice(near))))
    return tuple(taken)
