"""What any source of rows of activations keeps: epochs, the fingerprint, running ahead."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from mxd._plain_state import whole
from mxd.data.buffer import Rows
from mxd.data.packing import TextPosition
from mxd.data.prefetch import prefetch
from mxd.data.side_stream import SideStream
from mxd.data.token_digest import TokenDigest
from mxd.data.tokenising import Place, Read
from mxd.errors import UserError

_logger = logging.getLogger(__name__)


class Position(NamedTuple):
    """How far a source has been read: what it takes to go on with the very next pass."""

    epoch: int = 1
    """The epoch, from 1."""
    passes: int = 0
    """Passes of that epoch."""
    kept: int = 0
    """Rows that they gave."""
    seen: int = 0
    """Tokens that they looked at, excluded ones too."""
    total: int = 0
    """Rows since the beginning, over all epochs."""
    text: TextPosition | None = None
    """Where the text goes on, if it said so; else passes are counted."""


class Pass(NamedTuple):
    """The rows that come at once: of one pass of the model, or of one reading of a cache."""

    rows: Rows
    """Those that are trained on; there may be none."""
    token_ids: Int64[Tensor, " tokens"]
    """All token ids, those of excluded rows too, in CPU memory."""
    text: TextPosition | None = None
    """Where the text goes on after this pass, if that is known."""


def _plain(position: TextPosition) -> dict[str, Any]:
    places = {"group": position.group._asdict(), "read": position.read._asdict()}
    return {**position._asdict(), **places}


def _text_position(state: Mapping[str, Any]) -> TextPosition:
    group, read = state["group"], state["read"]
    open_ids = state["open_ids"]
    chains = group["chain"], read["chain"]
    if any(type(one) is not str for one in chains) or any(type(one) is not int for one in open_ids):
        raise ValueError("got no place in a text")
    place = Place(whole(group, "documents"), whole(group, "pieces"), chains[0])
    reached = Read(whole(read, "documents", least=1), chains[1])
    return TextPosition(place, whole(state, "rows"), reached, tuple(open_ids))


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
        may_be_empty: Whether an epoch without any row ends the stream, rather than being an error.
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
        may_be_empty: bool = False,
    ) -> None:
        self._of = of
        self._repeat = repeat
        self._least_tokens = least_tokens
        self._may_be_empty = may_be_empty
        self._limit = limit
        self._ahead = ahead
        self._device = torch.device(device)
        self._digest = TokenDigest()
        self.position = Position()
        """What was taken so far; set it before iterating to go on from there."""

    @property
    def epoch(self) -> int:
        """The epoch of the last row that was taken, from 1."""
        return self.position.epoch

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all token ids so far (`TokenDigest`)."""
        return self._digest.hexdigest()

    def state(self) -> dict[str, Any]:
        """What it takes to go on after the rows that were taken, as plain data."""
        text = self.position.text
        return {
            "position": self.position._replace(text=None)._asdict(),
            "text": None if text is None else _plain(text),
            "digest": self._digest.state,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, before the first row is taken."""
        text = state["text"]
        if text is not None:
            text = _text_position(text)
        place = state["position"]
        counts = {name: whole(place, name) for name in Position._fields if name != "text"}
        self.position = Position(**counts, text=text)
        chain, rest = state["digest"]
        self._digest = TokenDigest(chain, tuple(rest))

    @abstractmethod
    def _passes(self, epoch: int, after: Position | None) -> Iterator[Pass]:
        """The passes of one epoch, from 1; those after a position in it where one is given."""

    def _settle(self) -> None:
        """Find what is wrong with the passes so far, where that was put off."""
        return

    def __iter__(self) -> Generator[Rows, None, None]:
        with closing(self._run_ahead()) as passes:
            for position, (rows, token_ids, _) in passes:
                self._digest.update(token_ids)
                if position.epoch > self.epoch:
                    _logger.warning(
                        "the %s is used up after %d tokens: epoch %d begins",
                        self._of, self.position.kept, position.epoch,
                    )  # fmt: skip
                self.position = position
                if len(rows.token_ids):
                    yield rows
        if self._limit is None or self.position.total < self._limit:
            _logger.info(
                "the %s is used up after %d tokens: the stream ends", self._of, self.position.kept
            )

    def _run_ahead(self) -> Generator[tuple[Position, Pass], None, None]:
        if self._ahead == 0 or self._device.type != "cuda":
            yield from prefetch(self._epochs(), self._ahead)
            return
        side = SideStream(self._device)
        with closing(prefetch(side.produced(self._epochs()), self._ahead)) as queued:
            yield from side.received(queued, _tensors)

    def _epochs(self) -> Iterator[tuple[Position, Pass]]:
        at = self.position
        if self._is_enough(at):  # what went on from here had been read to the end
            return
        after: Position | None = at if at.passes else None
        while True:
            for one in self._passes(at.epoch, after):
                rows = len(one.rows.token_ids)
                at = Position(
                    epoch=at.epoch,
                    passes=at.passes + 1,
                    kept=at.kept + rows,
                    seen=at.seen + len(one.token_ids),
                    total=at.total + rows,
                    text=one.text,
                )
                if self._is_enough(at):
                    self._settle()
                yield at, one
                if self._is_enough(at):
                    return
            self._settle()
            if not at.kept and self._may_be_empty:
                _logger.warning("a part of the %s holds no tokens: it serves nothing", self._of)
                return
            if at.kept < self._least_tokens:
                raise UserError(
                    f"got {at.kept} tokens of {self._of} in an epoch ({at.seen - at.kept} more are "
                    f"excluded), expected at least the {self._least_tokens} of one batch; give "
                    f"more {self._of} or smaller batches"
                )
            if not self._repeat:
                return
            at, after = Position(epoch=at.epoch + 1, total=at.total), None

    def _is_enough(self, at: Position) -> bool:
        return self._limit is not None and at.total >= self._limit


def _tensors(item: tuple[Position, Pass]) -> list[Tensor]:
    rows = item[1].rows
    return [rows.token_ids, *(tensor for pair in rows.sites.values() for tensor in pair)]
