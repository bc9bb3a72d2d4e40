"""Preallocated storage for rows of activations."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

SiteActivations = dict[str, tuple[Float[Tensor, "tokens _d_in"], Float[Tensor, "tokens _d_out"]]]
"""For each site, what its layer receives and what it adds; widths may differ between sites."""

_logger = logging.getLogger(__name__)


class Rows(NamedTuple):
    """Activations of some tokens at every site."""

    sites: SiteActivations
    token_ids: Int64[Tensor, " tokens"]

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The same by name: `<prefix>.x.<site>`, `<prefix>.y.<site>`, `<prefix>.token_ids`."""
        named = {f"{prefix}.token_ids": self.token_ids}
        for site, (x, y) in self.sites.items():
            named |= {f"{prefix}.x.{site}": x, f"{prefix}.y.{site}": y}
        return named

    @classmethod
    def of_tensors(cls, prefix: str, named: Mapping[str, Tensor]) -> "Rows | None":
        """Rows out of what `tensors` gave; None where nothing has the prefix."""
        if f"{prefix}.token_ids" not in named:
            return None
        start = f"{prefix}.x."
        sites = [name.removeprefix(start) for name in named if name.startswith(start)]
        pairs = {site: (named[start + site], named[f"{prefix}.y.{site}"]) for site in sites}
        return cls(pairs, named[f"{prefix}.token_ids"])

    def slice(self, start: int, stop: int) -> "Rows":
        """A view of consecutive rows."""
        sites = {name: (x[start:stop], y[start:stop]) for name, (x, y) in self.sites.items()}
        return Rows(sites, self.token_ids[start:stop])


@dataclass(frozen=True)
class Slots:
    """Places in a buffer, known to the CPU and to the device of the buffer."""

    host: Int64[Tensor, " slots"]
    """In CPU memory."""
    there: Int64[Tensor, " slots"]
    """The same numbers on the device of the buffer."""

    def __len__(self) -> int:
        return len(self.host)

    def slice(self, start: int, stop: int) -> "Slots":
        """Consecutive ones."""
        return Slots(self.host[start:stop], self.there[start:stop])


class RowBuffer:
    """Room for a fixed number of rows; allocated once, when the first rows tell their widths.

    Activations live on the device of the buffer, token ids in CPU memory. What goes to a CUDA
    device goes there from pinned memory, so that the host need not wait for it.

    Args:
        capacity: Rows.
        device: Where the rows are kept.
        dtype: What activations are kept as.
        pinned: Read into pinned memory, which an accelerator can fetch from by itself; for a
            buffer in CPU memory.
    """

    def __init__(
        self, capacity: int, device: torch.device, dtype: torch.dtype, *, pinned: bool = False
    ) -> None:
        self.capacity = capacity
        self._pinned = pinned and device.type == "cpu"
        self._device = device
        self._dtype = dtype
        self._stored: Rows | None = None

    def emptied(self, capacity: int) -> "RowBuffer":
        """An empty one of another size, which is otherwise alike."""
        return RowBuffer(capacity, self._device, self._dtype, pinned=self._pinned)

    def slots(self, numbers: Int64[Tensor, " slots"]) -> Slots:
        """Send the numbers of slots to the device; once for many reads and writes."""
        return Slots(numbers, self._sent(numbers))

    def write(self, slots: Slots, rows: Rows) -> None:
        """Overwrite these slots with rows."""
        stored = self._stored or self._allocate(rows)
        for name, (x, y) in rows.sites.items():
            for store, new in zip(stored.sites[name], (x, y), strict=True):
                store.index_copy_(0, slots.there, self._sent(new.to(self._dtype)))
        stored.token_ids.index_copy_(0, slots.host, rows.token_ids.cpu())

    def read(self, slots: Slots) -> Rows:
        """Copy the rows of these slots."""
        assert self._stored is not None
        sites = {
            name: (self._gather(x, slots.there), self._gather(y, slots.there))
            for name, (x, y) in self._stored.sites.items()
        }
        return Rows(sites, self._stored.token_ids[slots.host])

    def _sent(self, values: Tensor) -> Tensor:
        if self._device.type == "cuda" and values.device.type == "cpu":
            # torch keeps the pinned memory from being used again before the copy is done.
            return values.pin_memory().to(self._device, non_blocking=True)
        return values.to(self._device)

    def _gather(
        self, stored: Float[Tensor, "capacity width"], slots: Int64[Tensor, " tokens"]
    ) -> Float[Tensor, "tokens width"]:
        if not self._pinned:
            return stored.index_select(0, slots)
        shape = (len(slots), stored.shape[1])
        rows = torch.empty(shape, dtype=stored.dtype, pin_memory=True)
        return torch.index_select(stored, 0, slots, out=rows)

    def view(self, count: int) -> Rows:
        """A view of the first rows; of a buffer that nothing was ever written to, of no site."""
        if self._stored is None:
            assert count == 0
            return Rows({}, torch.zeros(0, dtype=torch.int64))
        return self._stored.slice(0, count)

    def load(self, rows: Rows) -> None:
        """Put rows into the first slots, as `view` gave them."""
        self.write(self.slots(torch.arange(len(rows.token_ids))), rows)

    def _allocate(self, like: Rows) -> Rows:
        def empty(x: Float[Tensor, "tokens width"]) -> Float[Tensor, "capacity width"]:
            shape = (self.capacity, x.shape[1])
            return torch.empty(shape, dtype=self._dtype, device=self._device)

        sites = {name: (empty(x), empty(y)) for name, (x, y) in like.sites.items()}
        token_ids = torch.empty(self.capacity, dtype=torch.int64)
        self._stored = Rows(sites, token_ids)
        size = sum(t.nbytes for pair in sites.values() for t in pair) / 2**20
        _logger.info("buffer of %d tokens: %.0f MiB on %s", self.capacity, size, self._device)
        return self._stored
