"""Contexts to rows of activations, epoch after epoch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mxd.data.buffer import Rows
from mxd.data.packing import Contexts, PackedContexts, TextPosition
from mxd.data.row_source import Pass, Position, RowSource
from mxd.errors import UserError

Harvest = Callable[[Int64[Tensor, "contexts length"]], dict[str, tuple[Tensor, Tensor]]]
"""One pass of the model: tokens to (..., d_in) and (..., d_out) for each site's name."""

_LOOK_EVERY = 16
"""Passes on an accelerator between two looks at whether all activations were finite."""


class Harvester(RowSource):
    """Runs the model over contexts and gives the activations, batch by batch.

    Rows that stay on an accelerator are looked at for whether all are finite every 16 passes, and
    nothing else waits for it; rows that are kept in CPU memory are looked at as they arrive there.

    Args:
        harvest: One pass of the model.
        contexts: Batches of contexts, iterated once for each epoch.
        contexts_per_pass: Contexts in one pass of the model.
        dtype: What activations are kept as.
        excluded_token_ids: Tokens whose rows are left out.
        repeat: Whether a new epoch follows the last context.
        least_tokens: An epoch that gives fewer rows than this is an error.
        limit: Rows that will be taken at most; the model does not run beyond them.
        ahead: Passes made ahead in a background thread.
        device: Where the model runs.
        keep_on: Where the rows go; None leaves them with the model.
        may_be_empty: Whether contexts may give no row at all.
        skip: Passes at the beginning that are read but not run, because their rows are known.
    """

    def __init__(
        self,
        harvest: Harvest,
        contexts: Iterable[Contexts],
        *,
        contexts_per_pass: int,
        dtype: torch.dtype,
        excluded_token_ids: Sequence[int],
        repeat: bool,
        least_tokens: int,
        limit: int | None = None,
        ahead: int = 0,
        device: torch.device | str = "cpu",
        keep_on: torch.device | None = None,
        may_be_empty: bool = False,
        skip: int = 0,
    ) -> None:
        super().__init__(
            of="text",
            repeat=repeat,
            least_tokens=least_tokens,
            limit=limit,
            ahead=ahead,
            device=device,
            may_be_empty=may_be_empty,
        )
        self._harvest = harvest
        self._contexts = contexts
        self._contexts_per_pass = contexts_per_pass
        self._dtype = dtype
        self._excluded = torch.tensor(sorted(excluded_token_ids), dtype=torch.int64)
        self._keep_on = keep_on
        self._skip = skip
        self._unseen: list[tuple[int, str, Tensor]] = []
        self.passes = 0

    def _passes(self, epoch: int, after: Position | None) -> Iterator[Pass]:
        contexts, done = _from(self._contexts, after)
        for tokens, text in islice(regroup(contexts, self._contexts_per_pass), done, None):
            self.passes += 1
            token_ids = tokens.cpu().flatten()
            if self.passes <= self._skip:
                yield Pass(Rows({}, token_ids[:0]), token_ids, text)
            else:
                yield Pass(self._rows(tokens, token_ids), token_ids, text)

    def _rows(
        self, tokens: Int64[Tensor, "contexts length"], token_ids: Int64[Tensor, " tokens"]
    ) -> Rows:
        # What is kept is known from the ids alone, so the device is not asked.
        kept = torch.isin(token_ids, self._excluded, invert=True).nonzero().squeeze(-1)
        sites = {
            name: (self._flat(x, kept, name), self._flat(y, kept, name))
            for name, (x, y) in self._harvest(tokens).items()
        }
        if len(self._unseen) >= 2 * len(sites) * _LOOK_EVERY:
            self._settle()
        return Rows(sites, token_ids[kept])

    def _flat(
        self, values: Tensor, kept: Int64[Tensor, " kept"], site: str
    ) -> Float[Tensor, "kept width"]:
        rows = values.detach().flatten(0, -2)
        if len(kept) < len(rows):
            rows = rows.index_select(0, kept.to(rows.device, non_blocking=True))
        rows = rows.to(self._dtype)
        if self._keep_on is not None:
            rows = rows.to(self._keep_on)  # into CPU memory this waits, so a look costs no wait
        if rows.device.type != "cpu":
            self._unseen.append((self.passes, site, rows.isfinite().all()))
        # A sum is finite wherever it can be, and costs a tenth of the exact check.
        elif not rows.sum().isfinite() and not rows.isfinite().all():
            raise _not_finite(site, self.passes)
        return rows

    def _settle(self) -> None:
        """Look at the flags of the passes since the last look; this waits for the device."""
        unseen, self._unseen = self._unseen, []
        if not unseen:
            return
        finite = torch.stack([flag for _, _, flag in unseen]).tolist()
        for (number, site, _), good in zip(unseen, finite, strict=True):
            if not good:
                raise _not_finite(site, number)


def _not_finite(site: str, number: int) -> UserError:
    return UserError(
        f"got NaN or infinite activations at site {site} in batch {number}, expected finite "
        "numbers; run the model in float32 or bfloat16, or look for broken weights"
    )


def _from(contexts: Iterable[Contexts], after: Position | None) -> tuple[Iterable[Contexts], int]:
    """An epoch's contexts after a position, and how many passes of them are to be left out."""
    if after is None:
        return contexts, 0
    if after.text is None or not isinstance(contexts, PackedContexts):
        return contexts, after.passes
    return contexts.starting_at(after.text), 0


def regroup(
    contexts: Iterable[Contexts], size: int
) -> Iterator[tuple[Int64[Tensor, "contexts length"], TextPosition | None]]:
    """Tokens of the same contexts in batches of another size; the last may be smaller.

    Each comes with the position of the text after it, where a batch of contexts ends with it.
    """
    held: list[Tensor] = []
    count = 0
    after = None
    for batch in contexts:
        held.append(batch.tokens)
        count += len(batch.tokens)
        after = batch.after
        if count < size:
            continue
        *full, last = torch.cat(held).split(size)
        for tokens in full:
            yield tokens, None
        held, count = [last], len(last)
        if count == size:
            yield last, after
            held, count = [], 0
    if count:
        yield torch.cat(held), after
