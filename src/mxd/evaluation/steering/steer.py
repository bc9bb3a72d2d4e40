"""Turn one unit up while the model writes (paper, section 4.3 and appendix on steering)."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mxd.errors import UserError
from mxd.evaluation.steering.layers import Steered
from mxd.evaluation.steering.sampling import Sampling, encode_prompt, sample, uniform_draws
from mxd.host import graft
from mxd.layers import Layer, SparseLayer


@dataclass(frozen=True)
class SteeredText:
    """What the model writes with the layer in place, as it is and with a unit turned up."""

    prompt: str
    """Where all texts begin."""
    unit: int
    """The unit."""
    strength: float
    """What was added to its coefficient at every token."""
    plain: str
    """Continuation with the layer as it is; the first sample."""
    steered: str
    """Continuation with the unit turned up; the first sample."""
    plain_samples: list[str]
    """All continuations with the layer as it is."""
    steered_samples: list[str]
    """All continuations with the unit turned up, from the same draws."""


def steer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    site: str,
    layer: Layer,
    *,
    unit: int,
    strength: int | float,
    prompt: str = "Let's talk about ",
    samples: int = 1,
    max_new_tokens: int = 32,
    temperature: int | float = 0.7,
    top_p: int | float = 1.0,
    frequency_penalty: int | float = 0.0,
    seed: int = 42,
) -> SteeredText:
    """Write from a prompt with the layer grafted in, with and without one unit turned up.

    Args:
        model: the base model.
        tokenizer: its tokenizer.
        site: name of the module that the layer replaces.
        layer: the layer.
        unit: which unit to turn up.
        strength: what to add to its coefficient at every token (the paper adds 100).
        prompt: where to begin.
        samples: how many texts to write with and without.
        max_new_tokens: how many tokens to write.
        temperature: of the sampling.
        top_p: sample from the fewest tokens that hold this share of the probability.
        frequency_penalty: taken from a token's logit for each time the text so far has it.
        seed: seed of the sampling; texts with and without use the same draws.

    Raises:
        UserError: the layer has no units, or not this one; a prompt or temperature of nothing.
    """
    found = with_units(layer)
    check_unit(found, unit)
    sampling = Sampling(
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        frequency_penalty=frequency_penalty,
        seed=seed,
    )
    ids = encode_prompt(model, tokenizer, prompt, room=max_new_tokens)
    draws = uniform_draws(sampling)
    sets = []
    for stand_in in (found, Steered(found, unit, strength)):
        with graft(model, {site: stand_in}):
            sets.append(decode(tokenizer, sample(model, ids, draws, sampling)))
    plain, steered = sets
    return SteeredText(prompt, unit, float(strength), plain[0], steered[0], plain, steered)


def with_units(layer: Layer) -> SparseLayer:
    """The layer, which has units.

    Raises:
        UserError: it has none.
    """
    if not isinstance(layer, SparseLayer):
        raise UserError(
            f"got a {layer.config.architecture} layer, which has no units to steer with"
        )
    return layer


def check_unit(layer: SparseLayer, unit: int) -> None:
    """Make sure that a layer has a unit.

    Raises:
        UserError: it has not.
    """
    if not 0 <= unit < layer.config.n_units:
        raise UserError(f"got unit {unit}, expected 0 to {layer.config.n_units - 1}")


def decode(tokenizer: PreTrainedTokenizerBase, ids: Int[Tensor, "rows tokens"]) -> list[str]:
    """The text of each row, without special tokens."""
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in ids.tolist()]
