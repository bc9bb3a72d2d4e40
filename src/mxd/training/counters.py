"""What is counted while a student learns, on its device, so that no step waits for it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mxd.layers import Codes


class Sums(NamedTuple):
    """Means over the steps since the last look."""

    loss: float
    """What was minimised."""
    nmse: float
    """Normalised mean squared error."""
    l0: float
    """Active units for a token."""


class Counters:
    """Losses, active units and how long each unit has been silent.

    Args:
        units: N, units of the layer; 0 for a dense one.
        device: where the layer is.
    """

    def __init__(self, units: int, device: torch.device) -> None:
        self.silent_tokens = torch.zeros(units, dtype=torch.int64, device=device)
        """Tokens since each unit was last active, (N,)."""
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, nmse, l0
        self._steps = 0

    @torch.no_grad()
    def add(self, loss: Tensor, nmse: Tensor, codes: Codes | None, tokens: int) -> None:
        """Count a step: its loss, its NMSE, and the codes of its tokens."""
        self._steps += 1
        self._sums[0] += loss
        self._sums[1] += nmse
        if codes is None:
            return
        active = codes.values > 0
        self._sums[2] += active.sum() / tokens
        hits = torch.zeros_like(self.silent_tokens)
        hits.scatter_add_(0, codes.indices.reshape(-1), active.reshape(-1).to(hits.dtype))
        self.silent_tokens += tokens
        self.silent_tokens.masked_fill_(hits > 0, 0)

    def state(self) -> dict[str, Tensor]:
        """All of it by name; the counters' own tensors."""
        steps = torch.tensor(self._steps)
        return {"silent_tokens": self.silent_tokens, "sums": self._sums, "steps": steps}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `state` gave."""
        self.silent_tokens.copy_(state["silent_tokens"])
        self._sums.copy_(state["sums"])
        self._steps = int(state["steps"])

    def take(self) -> Sums:
        """Means since the last call; waits for the device."""
        loss, nmse, l0 = (self._sums / max(1, self._steps)).tolist()
        self._sums.zero_()
        self._steps = 0
        return Sums(loss, nmse, l0)

    def silent_fraction(self, tokens: int) -> float | None:
        """Share of units silent for at least this many tokens; None for a dense layer."""
        if not len(self.silent_tokens):
            return None
        return float((self.silent_tokens >= tokens).double().mean())
