"""A step in parts, for when a whole batch does not fit into memory."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
logger = logging.getLogger(__name__)
_SIGNS = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
"""What errors without a type of their own say when memory runs out."""


class MicroBatches:
    """How many tokens a layer's dense part computes at one time; halved when memory runs out.

    Args:
        name: whom to name in the log.
        tokens: tokens at one time; None for a whole batch.
        may_split: whether a step can be split at all.
    """

    def __init__(self, name: str, tokens: int | None, may_split: bool) -> None:
        self._name, self.tokens, self._may_split = name, tokens, may_split
        self.halved: int | None = None
        """What running out of memory has brought `tokens` to; None where it never did."""

    def halve_to(self, tokens: int) -> None:
        """Compute no more tokens at one time, as memory has run out with more."""
        self.halved = tokens
        self.tokens = min(self.tokens or tokens, tokens)

    def run(self, batch: int, attempt: Callable[[list[slice]], T]) -> T:
        """Call `attempt` with the parts of a batch until it fits; each attempt starts afresh.

        Args:
            batch: tokens of the batch.
            attempt: computes a step in the given parts.

        Returns:
            What the attempt that fitted returned.

        Raises:
            Whatever `attempt` raises, and its out-of-memory error where nothing smaller is left.
        """
        while True:
            size = max(1, min(self.tokens or batch, batch))
            try:
                return attempt([slice(i, min(i + size, batch)) for i in range(0, batch, size)])
            except RuntimeError as error:
                if not is_out_of_memory(error) or size == 1 or not self._may_split:
                    raise
            # Outside the handler: its traceback would keep the failed step's tensors alive.
            self.halve_to(-(-size // 2))
            logger.warning(
                "%s: out of memory with %d tokens at one time; going on with %d",
                self._name,
                size,
                self.tokens,
            )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory could not be had, on an accelerator or the CPU."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _SIGNS)
