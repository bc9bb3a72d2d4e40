"""The training that is planned: model, layers, budget, buffer."""

from dataclasses import dataclass

from mxd.errors import UserError
from mxd.planning.model import ModelShape
from mxd.planning.students import StudentShape


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training of layers, as far as its cost depends on it."""

    model: ModelShape
    """The language model and the sites."""
    students: tuple[StudentShape, ...]
    """The layers."""
    tokens: int = 480_000_000
    """Token budget."""
    batch_tokens: int = 4096
    """Tokens in a step, of all processes together."""
    buffer_tokens: int = 524_288
    """Tokens in the shuffle buffer, of all processes together."""
    buffer_element: int = 4
    """Bytes of a number in the buffer."""
    buffer_on_device: bool = False
    """Whether the buffer is in an accelerator's memory rather than the host's."""
    prefetch: int = 0
    """Passes of the model that a thread runs ahead."""
    precision: str = "float32"
    """Of the layers' matrix products: `float32`, `tf32` or `bf16`."""
    checkpoints: bool = True
    """Whether checkpoints are written, which needs a copy of the state in the host's memory."""
    track_experts: bool = True
    """Whether the singular values of some experts are followed."""

    def __post_init__(self) -> None:
        if self.buffer_tokens < self.batch_tokens:
            raise UserError(
                f"got a buffer of {self.buffer_tokens} tokens, expected at least the "
                f"{self.batch_tokens} of a step; make the buffer larger or the batches smaller"
            )

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return -(-self.tokens // self.batch_tokens)

    @property
    def buffer_rows(self) -> int:
        """Rows of the buffer: no more than the run needs."""
        return min(self.buffer_tokens, self.steps * self.batch_tokens)
