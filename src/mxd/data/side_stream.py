"""Work of a background thread on a CUDA stream of its own, beside the consumer's.

Experimental: written for CUDA, and not yet measured there.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Queued(NamedTuple):
    """An item whose tensors may still be in the making on the device."""

    item: object
    """What the producer gave."""
    ready: torch.cuda.Event
    """Comes to pass when the device has made it."""


class SideStream:
    """A CUDA stream for a producer.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        # What the producer reads (the model's weights) was put there by the stream of today.
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def produced(self, source: Iterator[T]) -> Iterator[Queued]:
        """Make each item on the side stream; for the producer's thread."""
        end = object()
        while True:
            with torch.cuda.stream(self._stream):
                item = next(source, end)
                ready = self._stream.record_event()
            if item is end:
                return
            yield Queued(item, ready)

    def received(
        self, queued: Iterable[Queued], tensors: Callable[[T], Iterable[Tensor]]
    ) -> Iterator[T]:
        """Let the consumer's stream wait for each item, without letting the host wait.

        Args:
            queued: what `produced` gave.
            tensors: the tensors of an item, whose memory must outlast the consumer's work.
        """
        for item, ready in queued:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(ready)
            for tensor in tensors(item):  # type: ignore[arg-type]
                if tensor.is_cuda:
                    tensor.record_stream(current)
            yield item  # type: ignore[misc]
