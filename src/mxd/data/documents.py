"""What a text source gives: documents, each with a key that tells it from the others."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from mxd.errors import UserError


class Document(NamedTuple):
    """One text, or one context that somebody has tokenised already."""

    key: str
    """Documents with the same key count as one: they share a side of every split."""
    text: str | None
    """The text; None where only token ids are known."""
    token_ids: list[int] | None = None
    """The ids of a context that is tokenised already; None for text."""


class DocumentSource:
    """Documents that can be read again and again, always in the same order.

    Nothing is held in memory: every iteration opens the source anew.

    Args:
        description: What the user would call this source; error messages repeat it.
        open_pass: Starts one pass over the documents.
        remedy: What to do when a pass finds no document at all.
        may_be_empty: Whether that is no error.
    """

    def __init__(
        self,
        description: str,
        open_pass: Callable[[], Iterator[Document]],
        *,
        remedy: str = "choose a source that holds text",
        may_be_empty: bool = False,
    ) -> None:
        self.description = description
        self._open_pass = open_pass
        self._remedy = remedy
        self._may_be_empty = may_be_empty

    def __iter__(self) -> Iterator[Document]:
        empty = not self._may_be_empty
        for document in self._open_pass():
            empty = False
            yield document
        if empty:
            raise UserError(
                f"got no text from {self.description}, expected at least one document that is "
                f"not empty; {self._remedy}"
            )

    def __repr__(self) -> str:
        return f"DocumentSource({self.description!r})"


def text_key(text: str) -> str:
    """The SHA-256 of a text: exact duplicates have the same key."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def token_key(token_ids: Sequence[int]) -> str:
    """The SHA-256 of a context of token ids (each at most 64 bits)."""
    return hashlib.sha256(b"token ids:" + array("q", token_ids).tobytes()).hexdigest()


def content_key(document: Document) -> str:
    """The key that a document would have by its content alone."""
    if document.text is not None:
        return text_key(document.text)
    return token_key(document.token_ids or [])


def document_keys(documents: Iterable[Document]) -> set[str]:
    """Every key of a source, by name and by content, for `without_documents`."""
    keys: set[str] = set()
    for document in documents:
        keys.update((document.key, content_key(document)))
    return keys
