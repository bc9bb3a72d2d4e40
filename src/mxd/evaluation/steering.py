"""Turn one unit up while the model writes (paper, section 4.3 and appendix on steering)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mxd.errors import UserError
from mxd.host import graft
from mxd.layers import Layer, SparseLayer


class Steered(nn.Module):
    """A layer with a constant added to one unit's coefficient at every token."""

    def __init__(self, layer: SparseLayer, unit: int, strength: float) -> None:
        super().__init__()
        self.layer, self.unit, self.strength = layer, unit, strength
        self.config, self.reads, self.provenance = layer.config, layer.reads, layer.provenance

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """ŷ with a_n + strength."""
        codes = self.layer.encode(x).plus(self.unit, self.strength)
        return self.layer.decode(codes, x)


@dataclass(frozen=True)
class SteeredText:
    """What the model writes with the layer in place, as it is and with a unit turned up."""

    prompt: str
    """Where both begin."""
    unit: int
    """The unit."""
    strength: float
    """What was added to its coefficient at every token."""
    plain: str
    """Continuation with the layer as it is."""
    steered: str
    """Continuation with the unit turned up."""


@torch.no_grad()
def steer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    site: str,
    layer: Layer,
    *,
    unit: int,
    strength: float,
    prompt: str = "Let's talk about ",
    max_new_tokens: int = 32,
    temperature: float = 0.7,
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
        max_new_tokens: how many tokens to write.
        temperature: of the sampling; both texts use the same seed.
        seed: seed of the sampling.

    Raises:
        UserError: the layer has no units, or not this one; a prompt or temperature of nothing.
    """
    if not isinstance(layer, SparseLayer):
        raise UserError(
            f"got a {layer.config.architecture} layer, which has no units to steer with"
        )
    if not 0 <= unit < layer.config.n_units:
        raise UserError(f"got unit {unit}, expected 0 to {layer.config.n_units - 1}")
    if not temperature > 0:
        raise UserError(f"got temperature {temperature}, expected more than 0, for example 0.7")
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    if tokenizer.bos_token_id is not None:
        ids = torch.cat([torch.tensor([[tokenizer.bos_token_id]]), ids], dim=1)
    if not ids.numel():
        raise UserError(f"got prompt {prompt!r}, which has no tokens, expected some text")
    ids = ids.to(next(model.parameters()).device)
    texts = []
    for stand_in in (layer, Steered(layer, unit, strength)):
        with graft(model, {site: stand_in}), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            written = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                eos_token_id=None,
                pad_token_id=tokenizer.eos_token_id or 0,
            )
        texts.append(str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)))
    return SteeredText(prompt, unit, strength, *texts)
