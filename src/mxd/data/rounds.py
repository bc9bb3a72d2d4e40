"""What a stream serves between two draws of its order."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor


@dataclass
class Round:
    """What is served between two draws of the order."""

    drawn: Int64[Tensor, " slots"]
    """Slots with rows to serve, in random order."""
    quota: int
    """How many of them are served in this round, from the first one on."""
    start: int = 0
    """How many have been served."""
    free: int = 0
    """How many of these, the newest, still hold what was served."""
    refilled: list[Int64[Tensor, "_refilled"]] = field(default_factory=list)
    """Slots that hold new rows."""

    def state(self) -> tuple[dict[str, int], dict[str, Tensor]]:
        """Plain data and tensors."""
        refilled = torch.cat([self.drawn[:0], *self.refilled])
        plain = {"quota": self.quota, "start": self.start, "free": self.free}
        return plain, {"round.drawn": self.drawn, "round.refilled": refilled}

    def vacant(self, capacity: int) -> Int64[Tensor, " vacant"]:
        """Slots that were served and not filled again, but for the newest."""
        taken = torch.cat([self.drawn[self.start - self.free :], *self.refilled])
        free = torch.ones(capacity, dtype=torch.bool).index_fill_(0, taken, False)
        return free.nonzero().squeeze(-1)

    def check(self, filled: int) -> None:
        """Refuse slots that are not there, before anything is read from them.

        Raises:
            ValueError: there are some.
        """
        for slots in (self.drawn, *self.refilled):
            inside = (slots >= 0) & (slots < filled)
            if slots.dtype != torch.int64 or not inside.all():
                raise ValueError(f"got slots beyond the {filled} of the buffer")
        if not 0 <= self.free <= self.start <= self.quota <= len(self.drawn):
            raise ValueError(f"got a round at {self.start} of {self.quota}")

    @classmethod
    def of_state(cls, plain: Mapping[str, int], tensors: Mapping[str, Tensor]) -> "Round":
        """The round that gave them."""
        refilled = [tensors["round.refilled"]]
        return cls(tensors["round.drawn"], **plain, refilled=refilled)
