"""Notice the first step that is not finite, without waiting for the device."""

import torch
from torch import Tensor


class Guard:
    """From the first step on whose loss or gradient is not finite, no step counts.

    The optimizer reads `stopped` on the device, so a layer keeps the weights of its last good step,
    though the host learns of it only when it next looks.

    Args:
        device: where the layer is.
    """

    def __init__(self, device: torch.device) -> None:
        self.stopped = torch.zeros((), dtype=torch.float32, device=device)
        """1 from the first bad step on, else 0."""
        self._step = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def watch(self, loss: Tensor, gradient_norm: Tensor, step: int) -> None:
        """Look at a step before it is made.

        Args:
            loss: what was minimised.
            gradient_norm: norm of all gradients.
            step: its number, from 1.
        """
        bad = ~(loss.isfinite() & gradient_norm.isfinite())
        self._step += torch.where(bad & (self.stopped == 0), step, 0)
        self.stopped.copy_(torch.maximum(self.stopped, bad.to(self.stopped.dtype)))

    def first_bad(self) -> int | None:
        """The first step that did not count; None where all did. This waits for the device."""
        return int(self._step) or None

    def state(self) -> dict[str, Tensor]:
        """All of it by name; the guard's own tensors."""
        return {"stopped": self.stopped, "step": self._step}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on with what `state` gave."""
        self.stopped.copy_(state["stopped"])
        self._step.copy_(state["step"])
