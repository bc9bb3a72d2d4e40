"""The shuffled stream of activations that layers are trained on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from mxd._plain_state import whole
from mxd.data.buffer import RowBuffer, Rows, SiteActivations, Slots
from mxd.data.harvest import Harvest, Harvester
from mxd.data.packing import Contexts
from mxd.data.rounds import Round
from mxd.data.row_source import RowSource
from mxd.errors import UserError


class ActivationBatch(NamedTuple):
    """Activations of tokens from many contexts, in random order."""

    sites: SiteActivations
    """For each site's name, x (tokens, d_in) and y (tokens, d_out)."""
    token_ids: Int64[Tensor, " tokens"]
    """The token that each row belongs to, in CPU memory."""
    tokens: int
    """Tokens served so far, this batch included."""


class ActivationStream:
    """Activations of a frozen model, shuffled through a buffer of constant size.

    The buffer is filled once. Batches are drawn from it in random order, and new activations
    overwrite exactly the rows of each batch once it was served, so the model's work is spread
    evenly over the batches; when a share of the buffer is served, the order is drawn anew. So
    every token of an epoch that is not excluded is served once, and nothing but the batch is
    copied. The order depends on the seed and the contexts alone, never on torch's global random
    state.

    Iterating after a `break` goes on where it stopped. When the text ends, what is in the buffer
    is served to the last row, so the last batch may be smaller.

    Args:
        harvest: One pass of the model: token ids (contexts, length), on the device where
            `contexts` put them, to {site: (x (..., d_in), y (..., d_out))}.
        contexts: Batches of contexts; iterated again for each epoch.
        batch_tokens: Tokens in a batch.
        buffer_tokens: Tokens in the buffer. It is made no larger than `max_tokens` needs.
        refill: Share of the buffer that is served before the order is drawn anew, in whole batches.
        harvest_contexts: Contexts in one pass of the model.
        device: Where the buffer and the batches live.
        dtype: What activations are kept as; bfloat16 halves the memory.
        excluded_token_ids: Tokens whose activations are left out.
        on_exhausted: At the end of the text, "repeat" it or "stop".
        seed: Seed of the order.
        max_tokens: Tokens after which to stop, rounded up to whole batches; None for no limit.
        prefetch: Passes of the model made ahead in a background thread, while batches are used;
            0 makes each when it is needed. The batches are the same; `close` ends the thread.
        harvest_device: Where the model runs.
        may_be_empty: Whether a text without any token serves nothing, rather than being an error.

    Raises:
        UserError: An argument is out of range. While iterating: an epoch holds fewer tokens than
            a batch, or activations are not finite.
    """

    def __init__(
        self,
        *,
        harvest: Harvest,
        contexts: Iterable[Contexts],
        batch_tokens: int = 4096,
        buffer_tokens: int = 524_288,
        refill: float = 0.5,
        harvest_contexts: int = 32,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        excluded_token_ids: Sequence[int] = (),
        on_exhausted: Literal["repeat", "stop"] = "repeat",
        seed: int = 42,
        max_tokens: int | None = None,
        prefetch: int = 0,
        harvest_device: torch.device | str = "cpu",
        may_be_empty: bool = False,
    ) -> None:
        check_choices(on_exhausted, harvest_contexts=harvest_contexts, batch_tokens=batch_tokens)
        source = Harvester(
            harvest,
            contexts,
            contexts_per_pass=harvest_contexts,
            dtype=dtype,
            excluded_token_ids=excluded_token_ids,
            repeat=on_exhausted == "repeat",
            least_tokens=batch_tokens,
            limit=whole_batches(max_tokens, batch_tokens),
            ahead=prefetch,
            device=harvest_device,
            keep_on=torch.device(device),
            may_be_empty=may_be_empty,
        )
        self._begin(
            source,
            batch_tokens=batch_tokens,
            buffer_tokens=buffer_tokens,
            refill=refill,
            device=torch.device(device),
            dtype=dtype,
            seed=seed,
            max_tokens=max_tokens,
            pinned=torch.device(harvest_device).type == "cuda",
        )

    def _begin(
        self,
        source: RowSource,
        *,
        batch_tokens: int,
        buffer_tokens: int,
        refill: float,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
        max_tokens: int | None,
        pinned: bool,
    ) -> None:
        _check(batch_tokens, buffer_tokens, refill, max_tokens)
        self._batch_tokens = batch_tokens
        self._refill = refill
        self._budget = whole_batches(max_tokens, batch_tokens)
        self._buffer_tokens = buffer_tokens
        capacity = buffer_tokens if self._budget is None else min(buffer_tokens, self._budget)
        self._buffer = RowBuffer(capacity, device, dtype, pinned=pinned)
        self._source = source
        self._incoming = iter(source)
        self._left_over: Rows | None = None
        self._stored = self._served = 0
        self._filled: int | None = None
        self._round: Round | None = None
        self._order: Slots | None = None
        self._vacant: Int64[Tensor, " slots"] | None = None
        self._generator = torch.Generator().manual_seed(seed)
        self._batches = self._serve()

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all token ids that went through the model so far, for the run's record."""
        return self._source.fingerprint

    @property
    def epoch(self) -> int:
        """The epoch that is being harvested, from 1."""
        return self._source.epoch

    @property
    def served(self) -> int:
        """Tokens served so far."""
        return self._served

    @property
    def capacity(self) -> int:
        """Tokens that the buffer has room for."""
        return self._buffer.capacity

    def __iter__(self) -> Iterator[ActivationBatch]:
        return self._batches

    def first_buffer(self) -> SiteActivations:
        """The activations in the buffer, to start parameters at their means; serves nothing.

        Returns:
            For each site, views of x (tokens, d_in) and y (tokens, d_out); the stream overwrites
            them when it is iterated.
        """
        return self._buffer.view(self._fill_at_first()).sites

    def close(self) -> None:
        """End the background thread, if there is one; what is in the buffer stays readable."""
        self._incoming.close()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What it takes to go on with the very next batch, as plain data and tensors.

        The tensors are the stream's own: the shuffle buffer among them, which is most of it. Taken
        between two batches; a stream with the same arguments goes on from it after `load_state`.
        """
        plain: dict[str, Any] = {
            "source": self._source.state(),
            "stored": self._stored,
            "served": self._served,
            "filled": self._filled,
            "capacity": self.capacity,
            "round": None,
        }
        tensors = {"generator": self._generator.get_state()}
        if self._filled:
            tensors |= self._buffer.view(self._filled).tensors("buffer")
        if self._left_over is not None:
            tensors |= self._left_over.tensors("left_over")
        if self._round is not None:
            plain["round"], lists = self._round.state()
            tensors |= lists
        return plain, tensors

    def load_state(self, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state of a stream with the same arguments; before anything is served.

        `max_tokens` may be another: a buffer that it had made smaller grows with the next batch.

        Raises:
            UserError: the state is that of a larger buffer.
            ValueError, KeyError, TypeError, RuntimeError: it is no state of a stream.
        """
        capacity = whole(plain, "capacity", least=1)
        if capacity > self._buffer_tokens:
            raise UserError(
                f"got a stream of {capacity} buffered tokens, expected at most "
                f"{self._buffer_tokens}; the size of the buffer cannot change while a run goes on"
            )
        if capacity > self.capacity:
            self._buffer = self._buffer.emptied(capacity)
        self._source.load_state(plain["source"])
        self._stored, self._served = whole(plain, "stored"), whole(plain, "served")
        self._filled = whole(plain, "filled")
        self._generator.set_state(tensors["generator"])
        held = Rows.of_tensors("buffer", tensors)
        if held is not None:
            self._buffer.load(held)
        self._left_over = Rows.of_tensors("left_over", tensors)
        if plain["round"] is not None:
            self._round = Round.of_state(plain["round"], tensors)
            self._round.check(0 if held is None else len(held.token_ids))
            if self._budget is None or self._stored < self._budget:
                self._vacant = self._round.vacant(self.capacity)

    def _serve(self) -> Iterator[ActivationBatch]:
        while (batch := self._next()) is not None:
            yield batch

    def prepare(self) -> None:
        """Get the next batch ready: replace in the buffer what the one before took from it.

        This is where a stream waits for its source. Whatever ends it in the middle, the state is
        one to go on from.
        """
        self._round = current = self._round or self._first_round()
        # Spread over the batches: the model runs a little before each, not for long at once.
        if self._vacant is not None:  # a budget had ended here, and was raised
            for slots in self._filled_parts(self._buffer.slots(self._vacant)):
                current.refilled.append(slots)
                # A buffer that has grown is filled from where it ended.
                self._filled = max(self._filled or 0, int(slots.max()) + 1)
            self._vacant = None
        if current.free:
            free = self._order_of(current).slice(current.start - current.free, current.start)
            for slots in self._filled_parts(free):
                current.refilled.append(slots)
                current.free -= len(slots)
            current.free = 0

    def _next(self) -> ActivationBatch | None:
        """The next batch."""
        self.prepare()
        current = self._round
        assert current is not None
        order = self._order_of(current)
        if current.start >= current.quota:
            live = torch.cat([current.drawn[current.quota :], *current.refilled])
            current = self._new_round(live, last=len(live) < len(current.drawn))
            order = self._order_of(current)
        self._round = current
        taken = min(self._batch_tokens, current.quota - current.start)
        if taken == 0:
            return None
        rows = self._buffer.read(order.slice(current.start, current.start + taken))
        current.start, current.free = current.start + taken, taken
        self._served += taken
        return ActivationBatch(rows.sites, rows.token_ids, self._served)

    def _first_round(self) -> Round:
        live = torch.arange(self._fill_at_first())
        return self._new_round(live, last=len(live) < self.capacity)

    def _new_round(self, live: Int64[Tensor, " slots"], *, last: bool) -> Round:
        drawn = live[torch.randperm(len(live), generator=self._generator)]
        return Round(drawn, len(drawn) if last else min(len(drawn), self._round_tokens()))

    def _order_of(self, current: Round) -> Slots:
        """The slots of a round, sent to the device of the buffer once."""
        if self._order is None or self._order.host is not current.drawn:
            self._order = self._buffer.slots(current.drawn)
        return self._order

    def _round_tokens(self) -> int:
        """Tokens to serve between two draws of the order: whole batches."""
        batches = int(self.capacity * self._refill) // self._batch_tokens
        return max(batches, 1) * self._batch_tokens

    def _fill_at_first(self) -> int:
        """Fill the buffer, once; how many of its slots were filled, from the first one on."""
        if self._filled is None:
            slots = self._buffer.slots(torch.arange(self.capacity))
            self._filled = sum(len(part) for part in self._filled_parts(slots))
        return self._filled

    def _filled_parts(self, slots: Slots) -> Iterator[Int64[Tensor, " filled"]]:
        """Overwrite slots with new rows, and tell which; fewer when text or budget end."""
        if self._budget is not None:
            slots = slots.slice(0, max(0, self._budget - self._stored))
        filled = 0
        while filled < len(slots):
            rows = self._left_over or next(self._incoming, None)
            if rows is None:
                break
            taken = min(len(rows.token_ids), len(slots) - filled)
            self._buffer.write(slots.slice(filled, filled + taken), rows.slice(0, taken))
            rest = len(rows.token_ids) - taken
            self._left_over = rows.slice(taken, taken + rest) if rest else None
            self._stored += taken
            yield slots.host[filled : filled + taken]
            filled += taken


def _check(batch_tokens: int, buffer_tokens: int, refill: float, max_tokens: int | None) -> None:
    if max_tokens is not None:
        _at_least_one(max_tokens=max_tokens)
    if buffer_tokens < batch_tokens:
        raise UserError(
            f"got buffer_tokens={buffer_tokens}, expected at least batch_tokens={batch_tokens}; "
            "make the buffer larger or the batches smaller"
        )
    if not 0 < refill <= 1:
        raise UserError(f"got refill={refill}, expected above 0 and at most 1; 0.5 is usual")


def check_choices(on_exhausted: str, **counts: int) -> None:
    """Refuse what is wrong before anything is made of it."""
    _at_least_one(**counts)
    if on_exhausted not in ("repeat", "stop"):
        raise UserError(f"got on_exhausted={on_exhausted!r}, expected 'repeat' or 'stop'")


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UserError(f"got {name}={value}, expected 1 or more; give a positive number")


def whole_batches(max_tokens: int | None, batch_tokens: int) -> int | None:
    """A budget of tokens, rounded up to whole batches."""
    return None if max_tokens is None else -(-max_tokens // batch_tokens) * batch_tokens
