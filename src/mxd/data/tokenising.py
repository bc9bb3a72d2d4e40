"""Documents to token ids, many at a time and none too long."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedTokenizerBase

from mxd.data.documents import Document

_GROUP_DOCUMENTS = 64
_GROUP_CHARACTERS = 250_000
_PIECE_CHARACTERS = 250_000


class TokenPiece(NamedTuple):
    """Consecutive token ids of one document."""

    document: Document
    token_ids: Int64[np.ndarray, " ids"]
    begins: bool
    """Whether this is the document's first piece."""


class _TextPiece(NamedTuple):
    document: Document
    text: str
    begins: bool


def tokenise(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase
) -> Iterator[TokenPiece]:
    """Tokenise documents, without any special token.

    A special token that is spelled out in a text ("<|endoftext|>" in a page about tokenizers) is
    split like any other text; where a tokenizer cannot do that, its ids are dropped. Texts above
    250,000 characters are cut at white space, so that memory stays bounded.

    Args:
        documents: Documents in their order; those with token ids pass through unchanged.
        tokenizer: The model's tokenizer.

    Yields:
        The pieces of each document, in order; one for most documents.
    """
    unwanted = _unwanted_ids(tokenizer)
    for group in _groups(documents):
        encoded = iter(_encode([piece.text for piece in group if piece.text], tokenizer))
        for document, text, begins in group:
            if document.token_ids is not None:
                ids = np.asarray(document.token_ids, dtype=np.int64)
                yield TokenPiece(document, ids, begins)
            elif text:
                ids = np.asarray(next(encoded), dtype=np.int64)
                yield TokenPiece(document, ids[~np.isin(ids, unwanted)], begins)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """The SHA-256 of a tokenizer's vocabulary and special tokens, 64 hexadecimal digits."""
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    content = json.dumps([sorted(tokenizer.get_vocab().items()), special])
    return hashlib.sha256(content.encode()).hexdigest()


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


def _groups(documents: Iterable[Document]) -> Iterator[list[_TextPiece]]:
    group: list[_TextPiece] = []
    characters = 0
    for document in documents:
        for index, text in enumerate(_pieces(document.text or "")):
            group.append(_TextPiece(document, text, index == 0))
            characters += len(text)
            if len(group) >= _GROUP_DOCUMENTS or characters >= _GROUP_CHARACTERS:
                yield group
                group, characters = [], 0
    if group:
        yield group


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
