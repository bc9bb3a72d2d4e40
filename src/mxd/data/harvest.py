"""Contexts to rows of activations, epoch after epoch."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mxd.data.buffer import Rows
from mxd.data.packing import Contexts
from mxd.errors import UserError

Harvest = Callable[[Int64[Tensor, "contexts length"]], dict[str, tuple[Tensor, Tensor]]]
"""One pass of the model: tokens to (..., d_in) and (..., d_out) for each site's name."""

_logger = logging.getLogger(__name__)


class Harvester:
    """Runs the model over contexts and gives the activations, batch by batch.

    Args:
        harvest: One pass of the model.
        contexts: Batches of contexts, iterated once for each epoch.
        contexts_per_pass: Contexts in one pass of the model.
        dtype: What activations are kept as.
        excluded_token_ids: Tokens whose rows are left out.
        repeat: Whether a new epoch follows the last context.
        least_tokens: An epoch that gives fewer rows than this is an error.
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
    ) -> None:
        self._harvest = harvest
        self._contexts = contexts
        self._contexts_per_pass = contexts_per_pass
        self._dtype = dtype
        self._excluded = torch.tensor(sorted(excluded_token_ids), dtype=torch.int64)
        self._repeat = repeat
        self._least_tokens = least_tokens
        self._digest = hashlib.sha256()
        self.passes = 0
        self.epoch = 1

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all token ids so far, as little-endian 64-bit integers."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[Rows]:
        while True:
            kept = seen = 0
            for tokens in regroup(self._contexts, self._contexts_per_pass):
                rows = self._rows(tokens)
                kept, seen = kept + len(rows.token_ids), seen + tokens.numel()
                if len(rows.token_ids):
                    yield rows
            if kept < self._least_tokens:
                raise UserError(
                    f"got {kept} tokens of text in an epoch ({seen - kept} more are excluded), "
                    f"expected at least the {self._least_tokens} of one batch; give more text or "
                    "smaller batches"
                )
            if not self._repeat:
                _logger.info("the text is used up after %d tokens: the stream ends", kept)
                return
            self.epoch += 1
            _logger.warning(
                "the text is used up after %d tokens: epoch %d begins", kept, self.epoch
            )

    def _rows(self, tokens: Int64[Tensor, "contexts length"]) -> Rows:
        self.passes += 1
        self._digest.update(tokens.cpu().numpy().astype("<i8").tobytes())
        token_ids = tokens.flatten()
        keep = ~torch.isin(token_ids, self._excluded.to(token_ids.device))
        sites = {
            name: (self._flat(x, keep, name), self._flat(y, keep, name))
            for name, (x, y) in self._harvest(tokens).items()
        }
        return Rows(sites, token_ids[keep])

    def _flat(
        self, values: Tensor, keep: Bool[Tensor, " tokens"], site: str
    ) -> Float[Tensor, "kept width"]:
        rows = values.detach().reshape(len(keep), values.shape[-1])
        if not keep.all():
            rows = rows[keep.to(rows.device)]
        rows = rows.to(self._dtype)
        # A sum is finite wherever it can be, and costs a tenth of the exact check.
        if not rows.sum().isfinite() and not rows.isfinite().all():
            raise UserError(
                f"got NaN or infinite activations at site {site} in batch {self.passes}, expected "
                "finite numbers; run the model in float32 or bfloat16, or look for broken weights"
            )
        return rows


def regroup(contexts: Iterable[Contexts], size: int) -> Iterator[Int64[Tensor, "contexts length"]]:
    """Tokens of the same contexts in batches of another size; the last may be smaller."""
    held: list[Tensor] = []
    count = 0
    for batch in contexts:
        held.append(batch.tokens)
        count += len(batch.tokens)
        if count >= size:
            *full, rest = torch.cat(held).split(size)
            yield from full
            held, count = [rest], len(rest)
            if count == size:
                yield rest
                held, count = [], 0
    if count:
        yield torch.cat(held)
