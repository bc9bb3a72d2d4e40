"""Documents to contexts of equal length."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mxd.data.documents import Document
from mxd.data.tokenising import Place, Read, TokenPiece, text_changed, tokenise
from mxd.errors import UserError

_logger = logging.getLogger(__name__)

_Row = tuple[Int64[np.ndarray, " length"], Int32[np.ndarray, " length"]]


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """How documents are packed into contexts."""

    length: int = 128
    """Tokens in a context, the BOS token included."""
    separator: Literal["eos", "bos", "none"] = "eos"
    """Token put between two documents within a context, where the tokenizer has it."""
    begin_with_bos: bool = True
    """Begin every context with the BOS token, where the tokenizer has one."""

    def __post_init__(self) -> None:
        if self.length < 2:
            raise UserError(f"got length={self.length}, expected 2 or more; 128 is usual")
        if self.separator not in ("eos", "bos", "none"):
            raise UserError(
                f"got separator={self.separator!r}, expected 'eos', 'bos' or 'none'; choose one"
            )


class TextPosition(NamedTuple):
    """Where a reading stopped: what it takes to go on with the very next context."""

    group: Place = Place()
    """Where the group of documents begins that was being tokenised."""
    rows: int = 0
    """Contexts that this group has given."""
    read: Read = Read()
    """What was read of the text for this group."""
    open_ids: tuple[int, ...] = ()
    """What the open context held before this group."""


class Contexts(NamedTuple):
    """A batch of contexts."""

    tokens: Int64[Tensor, "contexts length"]
    """Token ids."""
    documents: Int32[Tensor, "contexts length"]
    """Which document each token comes from, numbered from 0 in the order of appearance."""
    after: TextPosition | None = None
    """Where the text goes on after these contexts; None where documents are numbered."""


class PackedContexts:
    """Contexts of equal length out of documents; can be iterated again for another epoch.

    The documents run on through the contexts, so no token is lost at their ends. A BOS token at
    the head of a context belongs to the first document in it, an EOS separator to the document
    that it ends, a BOS separator to the one that it begins. There is no separator where a new
    document and a new context begin together. Numbers of documents start anew in each epoch;
    documents with equal keys have equal numbers.

    The last context of an epoch is dropped when it is not full: `dropped_tokens` counts its
    tokens after each epoch. A document that is tokenised already is a context of its own, taken
    as it is.

    Args:
        documents: Documents that can be iterated once for each epoch.
        tokenizer: The model's tokenizer.
        options: Length, separator and BOS.
        contexts_per_batch: Contexts in each batch; the last may hold fewer.
        number_documents: Number the documents, which takes memory for each; else all are 0.
        may_be_empty: Whether too little text for one context is no error.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        tokenizer: PreTrainedTokenizerBase,
        options: ContextOptions | None = None,
        *,
        contexts_per_batch: int = 32,
        number_documents: bool = True,
        may_be_empty: bool = False,
    ) -> None:
        if contexts_per_batch < 1:
            raise UserError(
                f"got contexts_per_batch={contexts_per_batch}, expected 1 or more; 32 is usual"
            )
        self._documents = documents
        self._tokenizer = tokenizer
        self._options = options or ContextOptions()
        self._contexts_per_batch = contexts_per_batch
        self._number_documents = number_documents
        self._may_be_empty = may_be_empty
        self.dropped_tokens = 0

    def __iter__(self) -> Iterator[Contexts]:
        """One epoch of batches.

        Raises:
            UserError: There is too little text for one context, or a record that is tokenised
                already has another length or an id outside the vocabulary.
        """
        return self.starting_at(TextPosition())

    def starting_at(self, position: TextPosition) -> Iterator[Contexts]:
        """The batches of an epoch from a position on, which an earlier reading gave.

        Args:
            position: `Contexts.after` of the last batch that is not wanted again.

        Raises:
            UserError: As iterating; or the text before the position has changed.
        """
        batch: list[_Row] = []
        empty = position == TextPosition()
        after = position
        for row, after in self._rows(position):
            empty = False
            batch.append(row)
            if len(batch) == self._contexts_per_batch:
                yield self._stacked(batch, after)
                batch = []
        if batch:
            yield self._stacked(batch, after)
        if empty and not self._may_be_empty:
            raise UserError(
                f"got {self.dropped_tokens} tokens of text, expected at least the "
                f"{self._options.length} of one context; give more text or a lower length"
            )

    def _stacked(self, rows: list[_Row], after: TextPosition) -> Contexts:
        batch = _stack(rows)
        return batch if self._number_documents else batch._replace(after=after)

    def _rows(self, position: TextPosition) -> Iterator[tuple[_Row, TextPosition]]:
        """Contexts from a position on, each with the position after it."""
        open_context = _OpenContext(self._options.length, self._bos(), position.open_ids)
        numbers: dict[str, int] = {}
        group, given, open_ids = position.group, 0, position.open_ids
        number = last = 0
        unproved = position.read
        for piece in tokenise(self._documents, self._tokenizer, start=group):
            # The group begins where it did, and must be the same to its end.
            if unproved.documents and (piece.group, piece.read) != (group, unproved):
                raise text_changed(unproved.documents)
            unproved = Read()
            if piece.group != group:
                group, given, open_ids = piece.group, 0, open_context.ids()
            if self._number_documents:
                number = numbers.setdefault(piece.document.key, len(numbers))
            for row in self._added(open_context, piece, number, last):
                given += 1
                if group != position.group or given > position.rows:
                    yield row, TextPosition(group, given, piece.read, open_ids)
            if piece.document.token_ids is None:
                last = number
        if unproved.documents:
            raise text_changed(unproved.documents)
        self.dropped_tokens = open_context.used
        _logger.info(
            "packed an epoch; the last context held only %d tokens and was dropped",
            open_context.used,
        )

    def _added(
        self, open_context: "_OpenContext", piece: TokenPiece, number: int, last: int
    ) -> Iterator[_Row]:
        """Put a piece into the open context; gives every context that becomes full."""
        if piece.document.token_ids is not None:
            yield self._ready_made(piece, number)
            return
        separator = self._separator() if piece.begins and open_context.used else None
        if separator is not None:
            ends = self._options.separator == "eos"
            yield from open_context.add(separator, last if ends else number)
        yield from open_context.add(piece.token_ids, number)

    def _bos(self) -> int | None:
        return self._tokenizer.bos_token_id if self._options.begin_with_bos else None

    def _separator(self) -> Int64[np.ndarray, "1"] | None:
        if self._options.separator == "none":
            return None
        token_id = getattr(self._tokenizer, f"{self._options.separator}_token_id")
        return None if token_id is None else np.array([token_id], dtype=np.int64)

    def _ready_made(self, piece: TokenPiece, number: int) -> _Row:
        ids, length, vocabulary = piece.token_ids, self._options.length, len(self._tokenizer)
        if len(ids) != length:
            raise UserError(
                f"got a tokenised record of {len(ids)} ids, expected contexts of length={length}; "
                f"set length={len(ids)}, or tokenise the data set again"
            )
        if ids.min() < 0 or ids.max() >= vocabulary:
            wrong = ids[(ids < 0) | (ids >= vocabulary)][0]
            raise UserError(
                f"got token id {wrong} in a tokenised record, expected ids from 0 to "
                f"{vocabulary - 1}; use the tokenizer that the data set was made with"
            )
        return ids, np.full(length, number, dtype=np.int32)


def pack(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    options: ContextOptions | None = None,
    *,
    contexts_per_batch: int = 32,
    number_documents: bool = True,
    may_be_empty: bool = False,
) -> PackedContexts:
    """Pack documents into contexts: see `PackedContexts`."""
    return PackedContexts(
        documents,
        tokenizer,
        options,
        contexts_per_batch=contexts_per_batch,
        number_documents=number_documents,
        may_be_empty=may_be_empty,
    )


class _OpenContext:
    """The context that is being filled."""

    def __init__(self, length: int, bos: int | None, begun: tuple[int, ...] = ()) -> None:
        self._tokens = np.zeros(length, dtype=np.int64)
        self._documents = np.zeros(length, dtype=np.int32)
        self._bos = bos
        self._tokens[: len(begun)] = begun
        self.used = len(begun)

    def ids(self) -> tuple[int, ...]:
        """What it holds."""
        return tuple(self._tokens[: self.used].tolist())

    def add(self, ids: Int64[np.ndarray, " ids"], document: int) -> Iterator[_Row]:
        """Put ids in; gives every context that becomes full."""
        while len(ids):
            if self.used == 0 and self._bos is not None:
                self._tokens[0], self._documents[0] = self._bos, document
                self.used = 1
            taken = min(len(ids), len(self._tokens) - self.used)
            end = self.used + taken
            self._tokens[self.used : end] = ids[:taken]
            self._documents[self.used : end] = document
            ids, self.used = ids[taken:], end
            if self.used == len(self._tokens):
                yield self._tokens.copy(), self._documents.copy()
                self.used = 0


def _stack(rows: list[_Row]) -> Contexts:
    return Contexts(
        torch.from_numpy(np.stack([tokens for tokens, _ in rows])),
        torch.from_numpy(np.stack([documents for _, documents in rows])),
    )
