"""What any source of rows of activations keeps: epochs, the fingerprint, running ahead."""

import hashlib
import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from mxd.data.buffer import Rows
from mxd.data.prefetch import prefetch
from mxd.data.side_stream import SideStream
from mxd.errors import UserError

_logger = logging.getLogger(__name__)


class Pass(NamedTuple):
    """The rows that come at once: of one pass of the model, or of one reading of a cache."""

    rows: Rows
    """Those that are trained on; there may be none."""
    token_ids: Int64[Tensor, " tokens"]
    """All token ids, those of excluded rows too, in CPU memory."""


class RowSource(ABC):
    """Rows of activations, epoch after epoch.

    What is told of the rows (fingerprint, epoch) is about those that were taken, however far a
    background thread has run ahead.

    Args:
        of: What the rows come from, for messages: "text" or "cache".
        repeat: Whether a new epoch follows the last row.
        least_tokens: An epoch that gives fewer rows than this is an error.
        limit: Rows that will be taken at most; nothing is produced beyond them.
        ahead: Passes made ahead in a background thread; 0 makes each when it is asked for.
        device: Where the passes are computed.
    """

    def __init__(
        self,
        *,
        of: str,
        repeat: bool,
        least_tokens: int,
        limit: int | None = None,
        ahead: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._of = of
        self._repeat = repeat
        self._least_tokens = least_tokens
        self._limit = limit
        self._ahead = ahead
        self._device = torch.device(device)
        self._digest = hashlib.sha256()
        self._kept = 0
        self.epoch = 1

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all token ids so far, as little-endian 64-bit integers."""
        return self._digest.hexdigest()

    @abstractmethod
    def _passes(self, epoch: int) -> Iterator[Pass]:
        """The passes of one epoch, from 1."""

    def _settle(self) -> None:
        """Find what is wrong with the passes so far, where that was put off."""
        return

    def __iter__(self) -> Generator[Rows, None, None]:
        total = 0
        with closing(self._run_ahead()) as passes:
            for epoch, (rows, token_ids) in passes:
                self._account(epoch, token_ids)
                self._kept += len(rows.token_ids)
                total += len(rows.token_ids)
                if len(rows.token_ids):
                    yield rows
        if self._limit is None or total < self._limit:
            _logger.info("the %s is used up after %d tokens: the stream ends", self._of, self._kept)

    def _account(self, epoch: int, token_ids: Int64[Tensor, " tokens"]) -> None:
        self._digest.update(token_ids.numpy().astype("<i8").tobytes())
        if epoch > self.epoch:
            _logger.warning(
                "the %s is used up after %d tokens: epoch %d begins", self._of, self._kept, epoch
            )
            self.epoch, self._kept = epoch, 0

    def _run_ahead(self) -> Generator[tuple[int, Pass], None, None]:
        if self._ahead == 0 or self._device.type != "cuda":
            yield from prefetch(self._epochs(), self._ahead)
            return
        side = SideStream(self._device)
        with closing(prefetch(side.produced(self._epochs()), self._ahead)) as queued:
            yield from side.received(queued, _tensors)

    def _epochs(self) -> Iterator[tuple[int, Pass]]:
        total = 0
        for epoch in itertools.count(1):
            kept = seen = 0
            for one in self._passes(epoch):
                kept, seen = kept + len(one.rows.token_ids), seen + len(one.token_ids)
                total += len(one.rows.token_ids)
                enough = self._limit is not None and total >= self._limit
                if enough:
                    self._settle()
                yield epoch, one
                if enough:
                    return
            self._settle()
            if kept < self._least_tokens:
                raise UserError(
                    f"got {kept} tokens of {self._of} in an epoch ({seen - kept} more are "
                    f"excluded), expected at least the {self._least_tokens} of one batch; give "
                    f"more {self._of} or smaller batches"
                )
            if not self._repeat:
                return


def _tensors(item: tuple[int, Pass]) -> list[Tensor]:
    rows = item[1].rows
    return [rows.token_ids, *(tensor for pair in rows.sites.values() for tensor in pair)]
