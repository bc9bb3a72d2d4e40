"""Which documents are for training and which are held out."""

import hashlib
from collections.abc import Iterable, Iterator, Set

from mxd.data.documents import Document, DocumentSource, content_key
from mxd.errors import UserError


def split_documents(
    source: Iterable[Document], *, holdout: float = 0.05, seed: int
) -> tuple[DocumentSource, DocumentSource]:
    """Split a source by document into one for training and one held out.

    A keyed hash of the document's key decides, so the side of a document depends neither on the
    order of reading nor on the other documents, and equal keys are always on one side.

    Args:
        source: Documents that can be iterated more than once.
        holdout: Expected share of the documents to hold out.
        seed: Another seed holds out other documents.

    Returns:
        The training documents and the held-out documents. Iterating one that turns out to be
        empty raises a `UserError`.

    Raises:
        UserError: `holdout` is not between 0 and 1.
    """
    if not 0 < holdout < 1:
        raise UserError(
            f"got holdout={holdout}, expected a share above 0 and below 1; give for example 0.05"
        )
    name = _describe(source)

    def side(held_out: bool) -> Iterator[Document]:
        for document in source:
            if (_position(document.key, seed) < holdout) == held_out:
                yield document

    few = "give a source with more documents, or text of its own for evaluation"
    return (
        DocumentSource(
            f"the training part of {name}",
            lambda: side(False),
            remedy=f"lower holdout={holdout}, or {few}",
        ),
        DocumentSource(
            f"the held-out part of {name}",
            lambda: side(True),
            remedy=f"raise holdout={holdout}, or {few}",
        ),
    )


def without_documents(source: Iterable[Document], keys: Set[str]) -> DocumentSource:
    """Leave out the documents that an evaluation set holds too.

    Args:
        source: Documents that can be iterated more than once.
        keys: What `document_keys` gives for the evaluation set; a document is left out when its
            key or the hash of its content is among them.

    Returns:
        The rest. Iterating it raises a `UserError` when nothing is left.
    """

    def rest() -> Iterator[Document]:
        for document in source:
            if document.key not in keys and content_key(document) not in keys:
                yield document

    return DocumentSource(
        f"{_describe(source)} without the documents of the evaluation text",
        rest,
        remedy="choose evaluation text that is not the whole of the training text",
    )


def _position(key: str, seed: int) -> float:
    """A document's place between 0 and 1."""
    digest = hashlib.blake2b(
        key.encode("utf-8", "surrogatepass"),
        key=str(seed).encode()[:64],
        digest_size=8,
    ).digest()
    return int.from_bytes(digest, "big") / 2**64


def _describe(source: Iterable[Document]) -> str:
    return source.description if isinstance(source, DocumentSource) else "the documents"
