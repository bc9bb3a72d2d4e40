"""A text in two halves that share no document: one to rank units on, one to measure edits on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mxd.data import ContextOptions, Contexts, Document, DocumentSource, SpreadContexts, pack
from mxd.errors import UserError

FEW_DOCUMENTS = 8
"""With fewer documents, each is cut into pieces, so that both halves have several."""
_PIECE_CHARACTERS = 2000
_PIECES = 16


@dataclass(frozen=True)
class StudyText:
    """One text of an editing study."""

    text: str
    """What it is, in words."""
    ranking: list[Contexts]
    """Contexts to rank units on."""
    measuring: list[Contexts]
    """Contexts to measure edits on."""
    split: str = "documents"
    """`documents`: the halves share no document. `pieces`: the text has few documents, so each was
    cut, its first half for the ranking; a piece then stands for a document."""

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        halves = {"ranking": self.ranking, "measuring": self.measuring}
        counts = {
            f"{name}_{what}": count
            for name, half in halves.items()
            for what, count in zip(("tokens", "documents"), _counts(half), strict=True)
        }
        return {"text": self.text, "split": self.split, **counts}


def study_text(
    documents: DocumentSource,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens: int = 50_000,
    options: ContextOptions | None = None,
    contexts_per_batch: int = 16,
    description: str | None = None,
) -> StudyText:
    """Split a text in halves and pack each into contexts.

    Every second document goes into the ranking half; documents with equal keys stay together. A
    text of fewer than eight documents (a .txt file is one) is cut into pieces first.

    Args:
        documents: the text, of a size that ends.
        tokenizer: the model's tokenizer.
        tokens: how many tokens to take, half of them in each half, spread over the text.
        options: length of the contexts, separator and BOS.
        contexts_per_batch: contexts in each batch.
        description: what the text is, in words; None takes the source's own.

    Raises:
        UserError: no text, or a half that does not fill a single context.
    """
    name = description or documents.description
    few = _first_keys(documents)
    split = "documents" if len(few) >= FEW_DOCUMENTS else "pieces"

    def side(number: int) -> Iterator[Document]:
        sides = _by_document(documents) if split == "documents" else _by_piece(documents)
        return (document for side, document in sides if side == number)

    def half(number: int) -> list[Contexts]:
        try:
            packed = pack(DocumentSource(name, lambda: side(number)), tokenizer, options)
            spread = SpreadContexts(packed, tokens // 2, contexts_per_batch=contexts_per_batch)
            return list(spread)
        except UserError as error:
            raise UserError(f"{name} cannot be split in two halves: {error}") from None

    return StudyText(name, half(0), half(1), split)


def _first_keys(documents: Iterable[Document]) -> set[str]:
    keys: set[str] = set()
    for document in documents:
        keys.add(document.key)
        if len(keys) >= FEW_DOCUMENTS:
            break
    return keys


def _by_document(documents: Iterable[Document]) -> Iterator[tuple[int, Document]]:
    numbers: dict[str, int] = {}
    for document in documents:
        yield numbers.setdefault(document.key, len(numbers)) % 2, document


def _by_piece(documents: Iterable[Document]) -> Iterator[tuple[int, Document]]:
    for number, document in enumerate(documents):
        if document.text is None:
            yield number % 2, document
            continue
        pieces = list(_pieces(document.text))
        for place, piece in enumerate(pieces):
            yield int(2 * place >= len(pieces)), Document(f"{document.key}#{number}.{place}", piece)


def _pieces(text: str) -> Iterator[str]:
    """Parts of about equal size, cut before white space where there is some."""
    size = max(1, min(_PIECE_CHARACTERS, -(-len(text) // _PIECES)))
    start = 0
    while len(text) - start > size:
        cut = max(text.rfind(mark, start + 1, start + size + 1) for mark in "\n ")
        cut = cut if cut > start else start + size
        yield text[start:cut]
        start = cut
    yield text[start:]


def _counts(half: list[Contexts]) -> tuple[int, int]:
    tokens = sum(batch.tokens.numel() for batch in half)
    documents = torch.cat([batch.documents.flatten() for batch in half]) if half else torch.zeros(0)
    return tokens, len(documents.unique())
