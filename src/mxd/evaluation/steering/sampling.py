"""Sample continuations of a prompt, each row from draws of its own."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from mxd.errors import UserError
from mxd.evaluation._layers import most_positions
from mxd.host import input_device


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How texts are sampled; the defaults are those of the paper's steering study."""

    samples: int = 10
    """Texts in a set."""
    max_new_tokens: int = 32
    """Tokens of each; nothing stops a text earlier, EOS neither."""
    temperature: int | float = 1.0
    """What logits are divided by."""
    top_p: int | float = 0.1
    """Sample from the fewest tokens that hold this share of the probability."""
    frequency_penalty: int | float = 1.0
    """Taken from a token's logit for each time that the text so far has it, prompt not counted."""
    seed: int = 42
    """Seed of the draws."""

    def __post_init__(self) -> None:
        checks = {
            "samples": (self.samples >= 1, "1 or more"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "temperature": (0 < self.temperature < math.inf, "more than 0, for example 1"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
            "frequency_penalty": (math.isfinite(self.frequency_penalty), "a number, such as 1"),
        }
        for name, (good, expected) in checks.items():
            if not good:
                raise UserError(f"got {name} {getattr(self, name)}, expected {expected}")


class FrequencyPenalty(LogitsProcessor):
    """OpenAI's frequency penalty, which transformers lacks: logit_t − penalty · count of t.

    Only tokens after the prompt are counted.

    Args:
        penalty: what each occurrence costs, in nats.
        prompt_length: how many tokens at the beginning are the prompt.
    """

    def __init__(self, penalty: int | float, prompt_length: int) -> None:
        self.penalty, self.prompt_length = penalty, prompt_length

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """The scores less the penalty of what has been written."""
        written = input_ids[:, self.prompt_length :]
        cost = torch.full_like(written, 0, dtype=scores.dtype) + self.penalty
        return scores - torch.zeros_like(scores).scatter_add_(1, written, cost)


def encode_prompt(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, *, room: int
) -> Int[Tensor, "tokens"]:
    """The tokens of a prompt, BOS in front where the tokenizer has one.

    Raises:
        UserError: no UTF-8, no tokens, or too many for the model to write `room` more.
    """
    if prompt != prompt.encode("utf-8", "replace").decode("utf-8"):
        raise UserError(f"got prompt {prompt!r}, which is no UTF-8, expected text; mend it")
    ids = list(tokenizer(prompt, add_special_tokens=False).input_ids)
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    if not ids:
        raise UserError(f"got prompt {prompt!r}, which has no tokens, expected some text")
    most = most_positions(model)
    if most is not None and len(ids) + room > most:
        raise UserError(
            f"got a prompt of {len(ids)} tokens and {room} to write, expected at most {most} in "
            "all, the model's longest text; give fewer"
        )
    return torch.tensor(ids, device=input_device(model))


def uniform_draws(sampling: Sampling) -> Float[Tensor, "samples tokens"]:
    """The draws that decide each token of each sample, uniform in [0, 1).

    Every set of samples uses the same ones, so that sets differ by what steers them and not by
    luck, and no text depends on what is sampled beside it.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    return torch.rand(
        sampling.samples, sampling.max_new_tokens, generator=generator, dtype=torch.float64
    )


@torch.no_grad()
def sample(
    model: Any,
    prompt: Int[Tensor, "prompt"],
    draws: Float[Tensor, "rows new"],
    sampling: Sampling,
) -> Int[Tensor, "rows new"]:
    """Continue a prompt once for each row of draws.

    The scores go through the processors that `generate` uses; a token is where the cumulative
    distribution passes the draw. The global random state is neither used nor touched.

    Args:
        model: a causal language model, with whatever is grafted into it.
        prompt: token ids.
        draws: uniform numbers in [0, 1).
        sampling: temperature, top-p and frequency penalty; the draws say how many rows and tokens.

    Raises:
        UserError: the model predicts nothing that is finite, as with a far too large strength.
    """
    processors = _processors(sampling, len(prompt))
    ids = prompt.expand(len(draws), -1)
    fed, cache = ids, None
    for draw in draws.to(prompt.device).unbind(1):
        mask = torch.ones_like(ids)
        out = model(input_ids=fed, attention_mask=mask, past_key_values=cache, use_cache=True)
        scores = processors(ids, out.logits[:, -1].float())  # type: ignore[arg-type]
        chosen = _inverse_cdf(scores, draw)
        ids = torch.cat([ids, chosen], dim=1)
        cache = getattr(out, "past_key_values", None)
        fed = ids if cache is None else chosen
    return ids[:, len(prompt) :]


def _processors(sampling: Sampling, prompt_length: int) -> LogitsProcessorList:
    found = LogitsProcessorList()
    if sampling.frequency_penalty:
        found.append(FrequencyPenalty(sampling.frequency_penalty, prompt_length))
    if sampling.temperature != 1:
        found.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(float(sampling.top_p)))
    return found


def _inverse_cdf(
    scores: Float[Tensor, "rows vocabulary"], draw: Float[Tensor, "rows"]
) -> Int[Tensor, "rows 1"]:
    cumulative = scores.softmax(-1).double().cumsum(-1)
    if not bool(cumulative[:, -1].isfinite().all()):
        raise UserError(
            "got NaN or infinite predictions from the model, expected finite ones; give a smaller "
            "strength, or check the weights of model and layer"
        )
    reached = draw[:, None] * cumulative[:, -1:]
    # `right` passes over tokens of probability zero, where the sum stands still
    chosen = torch.searchsorted(cumulative, reached, right=True)
    return chosen.clamp(max=scores.shape[-1] - 1)
