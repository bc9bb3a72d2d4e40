"""Contexts taken evenly from a longer text, so that a short evaluation sees many documents."""

from collections.abc import Iterable, Iterator

import torch

from mxd.data.packing import Contexts


class SpreadContexts:
    """At most as many tokens as asked for, in contexts spread evenly over more of the text.

    Neighbouring contexts come from one document and say nearly the same; contexts from many
    documents say more.
    Can be iterated again. Documents keep their numbers.

    Args:
        contexts: the text; it is read once ahead to see how much there is.
        tokens: how many tokens to take, at least one context.
        look: how many times as much text to spread them over, at most.
        contexts_per_batch: contexts in each batch.
    """

    def __init__(
        self,
        contexts: Iterable[Contexts],
        tokens: int,
        *,
        look: int = 10,
        contexts_per_batch: int = 32,
    ) -> None:
        self._contexts, self._limit = contexts, look * tokens
        self._contexts_per_batch = contexts_per_batch
        lengths = [row.tokens.numel() for row in self._rows()]
        self._available = len(lengths)
        self._wanted = min(len(lengths), max(1, tokens // max([1, *lengths])))

    def __iter__(self) -> Iterator[Contexts]:
        rows: list[Contexts] = []
        for number, row in enumerate(self._rows()):
            taken, due = (n * self._wanted // self._available for n in (number, number + 1))
            if due > taken:
                rows.append(row)
            if len(rows) == self._contexts_per_batch:
                yield _stack(rows)
                rows = []
        if rows:
            yield _stack(rows)

    def _rows(self) -> Iterator[Contexts]:
        """Single contexts, up to the limit."""
        seen = 0
        for batch in self._contexts:
            for tokens, documents in zip(batch.tokens, batch.documents, strict=True):
                if seen >= self._limit:
                    return
                seen += tokens.numel()
                yield Contexts(tokens.unsqueeze(0), documents.unsqueeze(0))


def _stack(rows: list[Contexts]) -> Contexts:
    return Contexts(
        torch.cat([row.tokens for row in rows]), torch.cat([row.documents for row in rows])
    )
