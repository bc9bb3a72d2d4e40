"""A stand-in that gives an output computed before, whatever it is fed."""

from torch import Tensor, nn


class Replay(nn.Module):
    """Gives the stored output.

    With one site replaced, a layer is fed exactly what the MLP was fed in the base model's pass,
    so its output needs to be computed once for both its own figures and the model's.
    """

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        """A copy of the stored output, in the shape of the call: some hosts add to it in place."""
        return self.output.reshape(*x.shape[:-1], self.output.shape[-1]).clone()
