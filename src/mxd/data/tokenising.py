"""Documents to token ids, many at a time and none too long."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedTokenizerBase

from mxd.data.documents import Document
from mxd.errors import UserError

_GROUP_DOCUMENTS = 64
_GROUP_CHARACTERS = 250_000
_PIECE_CHARACTERS = 250_000


class Place(NamedTuple):
    """Where a reading of documents stands: at a piece of one of them."""

    documents: int = 0
    """Documents before this one."""
    pieces: int = 0
    """Pieces of this document before this place."""
    chain: str = ""
    """Hash over the documents before it, to see whether the text is still the same."""


class Read(NamedTuple):
    """How much of a text was read for a group of documents, the group included."""

    documents: int = 0
    """Documents up to the group's last one."""
    chain: str = ""
    """Hash over them: their keys, and their texts or token ids."""


class TokenPiece(NamedTuple):
    """Consecutive token ids of one document."""

    document: Document
    token_ids: Int64[np.ndarray, " ids"]
    begins: bool
    """Whether this is the document's first piece."""
    group: Place
    """The first piece of the group that it was tokenised with; a reading can begin anew there."""
    read: Read
    """What was read for that group."""


_BEGINNING = Place()


class _TextPiece(NamedTuple):
    document: Document
    text: str
    place: Place
    read: Read


def tokenise(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    start: Place = _BEGINNING,
) -> Iterator[TokenPiece]:
    """Tokenise documents, without any special token.

    A special token that is spelled out in a text ("<|endoftext|>" in a page about tokenizers) is
    split like any other text; where a tokenizer cannot do that, its ids are dropped. Texts above
    250,000 characters are cut at white space, so that memory stays bounded.

    Args:
        documents: Documents in their order; those with token ids pass through unchanged.
        tokenizer: The model's tokenizer.
        start: Where a group began in an earlier reading of the same documents; what is before it
            is read and not tokenised.

    Yields:
        The pieces of each document, in order; one for most documents.
    """
    unwanted = _unwanted_ids(tokenizer)
    for group in _groups(documents, start):
        encoded = iter(_encode([piece.text for piece in group if piece.text], tokenizer))
        first, read = group[0].place, group[-1].read
        for document, text, place, _ in group:
            begins = place.pieces == 0
            if document.token_ids is not None:
                ids = np.asarray(document.token_ids, dtype=np.int64)
                yield TokenPiece(document, ids, begins, first, read)
            elif text:
                ids = np.asarray(next(encoded), dtype=np.int64)
                yield TokenPiece(document, ids[~np.isin(ids, unwanted)], begins, first, read)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """The SHA-256 of a tokenizer's vocabulary, special tokens and rules, 64 hexadecimal digits.

    The rules (merges, normalisers, …) are those of a fast tokenizer; a slow one has none to show.
    """
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    content = json.dumps([sorted(tokenizer.get_vocab().items()), special, _rules(tokenizer)])
    return hashlib.sha256(content.encode()).hexdigest()


def _rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    found: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    # What the last call asked for says nothing of how a text is split.
    return {key: value for key, value in found.items() if key not in ("padding", "truncation")}


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if not texts:
        return []
    encoding = tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # a text longer than the model's context is what packing is for
    )
    ids: list[list[int]] = encoding["input_ids"]
    return ids


def _unwanted_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # The unknown token stands for real text, and some tokenizers pad with an ordinary word.
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    keep = {tokenizer.unk_token_id, tokenizer.pad_token_id} - marks | {tokenizer.unk_token_id}
    return sorted(set(tokenizer.all_special_ids) - keep)


def _groups(documents: Iterable[Document], start: Place) -> Iterator[list[_TextPiece]]:
    group: list[_TextPiece] = []
    characters = 0
    for number, chain, read, document in _numbered(documents, start):
        for index, text in enumerate(_pieces(document.text or "")):
            if (number, index) < (start.documents, start.pieces):
                continue
            group.append(_TextPiece(document, text, Place(number, index, chain), read))
            characters += len(text)
            if len(group) >= _GROUP_DOCUMENTS or characters >= _GROUP_CHARACTERS:
                yield group
                group, characters = [], 0
    if group:
        yield group


def _numbered(
    documents: Iterable[Document], start: Place
) -> Iterator[tuple[int, str, Read, Document]]:
    """Documents from a place on, each with its number, the chain before it and that with it."""
    number, chain = 0, ""
    for document in documents:
        if number == start.documents and chain != start.chain:
            raise text_changed(number)
        before, chain = chain, _chained(chain, document)
        if number >= start.documents:
            yield number, before, Read(number + 1, chain), document
        number += 1
    if number < start.documents or (number == start.documents and chain != start.chain):
        raise text_changed(number)


def _chained(chain: str, document: Document) -> str:
    """The hash over a document and, by their own, those before it."""
    key = document.key.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(f"{chain} {len(key)} ".encode() + key, digest_size=16)
    if document.token_ids is not None:
        digest.update(np.asarray(document.token_ids, dtype="<i8").tobytes())
    else:
        digest.update((document.text or "").encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def text_changed(number: int) -> UserError:
    """The error for a text of which the first so many documents are not what they were."""
    return UserError(
        f"the text is not what it was when the run was stopped: its first {number} documents "
        "differ, expected the same ones in the same order; restore the text, or start a new run"
    )


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = start + _PIECE_CHARACTERS
        # White space belongs to what follows it, as it does in byte-level BPE.
        cut = max(text.rfind(mark, start + 1, end) for mark in "\n ")
        cut = cut if cut > start else end
        yield text[start:cut]
        start = cut
    yield text[start:]
