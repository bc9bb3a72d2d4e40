"""What the base model makes of a text: how surprising it is, and its mean hidden state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from mxd.evaluation._layers import most_positions
from mxd.host import input_device

_BATCH = 64


@dataclass(frozen=True)
class Reading:
    """What the base model makes of some texts."""

    surprise: Float[np.ndarray, "texts"]
    """Mean negative log-likelihood of a token, nats; infinite for a text of no tokens."""
    state: Float[np.ndarray, "texts d"]
    """Mean hidden state half-way up the model."""


class TextReader:
    """Reads texts after a prompt, which is not counted."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str) -> None:
        self._model, self._tokenizer, self._prompt = model, tokenizer, prompt

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Reading:
        """Read each text after the prompt, like lengths together."""
        encode = self._tokenizer
        prompt = list(encode(self._prompt, add_special_tokens=False).input_ids)
        if encode.bos_token_id is not None:
            prompt = [encode.bos_token_id, *prompt]
        room = self._room(len(prompt))
        ids = [list(encode(text, add_special_tokens=False).input_ids)[:room] for text in texts]
        order = sorted(range(len(ids)), key=lambda n: len(ids[n]))  # alike lengths, little padding
        surprise = np.full(len(ids), np.inf)
        state = np.zeros((len(ids), 0))
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            nll, hidden = self._pass(prompt, [ids[n] for n in chosen])
            if not state.size:
                state = np.zeros((len(ids), hidden.shape[1]))
            surprise[chosen], state[chosen] = nll, hidden
        return Reading(surprise, state)

    def _room(self, prompt: int) -> int | None:
        """Tokens of a text that the model has room for."""
        most = most_positions(self._model)
        return None if most is None else max(1, most - max(1, prompt))

    def _pass(
        self, prompt: list[int], ids: list[list[int]]
    ) -> tuple[Float[np.ndarray, "texts"], Float[np.ndarray, "texts d"]]:
        device = input_device(self._model)
        longest = max(1, *map(len, ids))
        lengths = torch.tensor([len(row) for row in ids], device=device)
        begin = prompt or [ids[0][0] if ids[0] else 0]  # the first token needs one before it
        tokens = torch.tensor([begin + row + [0] * (longest - len(row)) for row in ids])
        out = self._model(
            input_ids=tokens.to(device),
            attention_mask=torch.ones_like(tokens, device=device),  # padding comes last
            output_hidden_states=True,
            use_cache=False,
        )
        own = (torch.arange(longest, device=device) < lengths[:, None]).double()
        logits = out.logits[:, len(begin) - 1 : -1].float()
        targets = tokens[:, len(begin) :].to(device)
        nll = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").double()
        count = lengths.double()
        mean = torch.where(count > 0, (nll * own).sum(1) / count.clamp(min=1), torch.inf)
        middle: Tensor = out.hidden_states[len(out.hidden_states) // 2][:, len(begin) :].double()
        hidden = (middle * own[..., None]).sum(1) / count.clamp(min=1)[:, None]
        return mean.cpu().numpy(), hidden.cpu().numpy()
