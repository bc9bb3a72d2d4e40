"""What is counted while a student learns, on its device, so that no step waits for it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mxd.layers import Codes
from mxd.training.companions import ALONE, Companions


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
    def add(
        self,
        loss: Tensor,
        nmse: Tensor,
        codes: Codes | None,
        tokens: int,
        companions: Companions = ALONE,
    ) -> Tensor:
        """Count a step.

        Args:
            loss: this process's part of its loss.
            nmse: likewise.
            codes: the codes of its tokens; None where there are none here.
            tokens: tokens of the step, over all processes.
            companions: who has the other parts.

        Returns:
            The whole step's loss.
        """
        self._steps += 1
        active = None if codes is None else codes.values > 0
        share = loss.new_zeros(()) if active is None else active.sum() / tokens
        loss, nmse, share = companions.summed(loss, nmse, share)
        self._sums[0] += loss
        self._sums[1] += nmse
        if not len(self.silent_tokens):
            return loss
        self._sums[2] += share
        hits = torch.zeros_like(self.silent_tokens)
        if codes is not None and active is not None:
            hits.scatter_add_(0, codes.indices.reshape(-1), active.reshape(-1).to(hits.dtype))
        self.silent_tokens += tokens
        self.silent_tokens.masked_fill_(companions.hit(hits) > 0, 0)
        return loss

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

    def silent_fraction(self, tokens: int, companions: Companions = ALONE) -> float | None:
        """Share of all units silent for at least this many tokens; None for a dense layer."""
        if not len(self.silent_tokens):
            return None
        return companions.fraction(self.silent_tokens >= tokens)
