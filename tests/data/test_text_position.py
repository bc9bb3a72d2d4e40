"""Text that is read on from a position gives the very next contexts."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mxd.data import ContextOptions, Document, pack, tokenizer_fingerprint
from mxd.data.packing import TextPosition
from mxd.data.token_digest import BLOCK_IDS, TokenDigest
from mxd.errors import UserError


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer(bos_token="<s>", eos_token="</s>")


def texts(count: int, seed: int = 0) -> list[Document]:
    """Documents of very different lengths, some empty, one longer than a piece, one tokenised."""
    draw = random.Random(seed)
    lengths = [draw.choice([0, 1, 7, 40, 400]) for _ in range(count)]
    lengths[count // 2] = 90_000  # more than 250,000 characters
    found = [
        Document(f"d{i}", " ".join(f"w{draw.randrange(3, 64)}" for _ in range(n)))
        for i, n in enumerate(lengths)
    ]
    found.insert(3, Document("ready", None, list(range(3, 19))))
    return found


@pytest.mark.parametrize("separator", ["eos", "bos", "none"])
@pytest.mark.parametrize("bos", [True, False])
def test_every_position_goes_on_with_the_very_next_context(tokenizer, separator, bos):
    options = ContextOptions(length=16, separator=separator, begin_with_bos=bos)
    documents = texts(150)
    packed = pack(documents, tokenizer, options, contexts_per_batch=11, number_documents=False)
    batches = list(packed)
    assert len(batches) > 400
    for index in [*range(60), *range(60, len(batches), 37), len(batches) - 1]:
        rest = packed.starting_at(batches[index].after)
        expected = batches[index + 1 :]
        for found, wanted in zip(rest, expected[:9], strict=False):
            assert torch.equal(found.tokens, wanted.tokens), index
            assert found.after == wanted.after
    assert list(packed.starting_at(batches[-1].after)) == []


def test_position_of_numbered_documents_is_not_given(tokenizer):
    packed = pack(texts(20), tokenizer, ContextOptions(length=16))
    assert next(iter(packed)).after is None


def test_text_that_changed_before_the_position_is_noticed(tokenizer):
    documents = texts(300)
    make = {"options": ContextOptions(length=16), "number_documents": False}
    positions = (batch.after for batch in pack(documents, tokenizer, **make))
    after = next(one for one in positions if one.group.documents > 63 and one.rows > 5)
    begins, ends = after.group.documents, after.read.documents
    assert 0 < begins < ends - 10 < len(documents) // 2 - 10

    def changed(index: int, text: str) -> list[Document]:
        return [d._replace(text=text) if i == index else d for i, d in enumerate(documents)]

    retokenised = [*documents[:3], Document("ready", None, list(range(4, 20))), *documents[4:]]
    for wrong in (
        [documents[1], documents[0], *documents[2:]], documents[1:], documents[: begins - 1],
        [d._replace(key="?") if i == 7 else d for i, d in enumerate(documents)], retokenised,
        changed(7, "w5 w6"),
        # The group that is tokenised again: less of it, more of it, another end, none at all.
        changed(begins, "w5"), changed(begins + 1, "w5 " * 90_000), changed(ends - 1, "w5 w6"),
        documents[: ends - 1], documents[: begins + 1], documents[:begins],
        [*documents[:begins], *(Document(d.key, "") for d in documents[begins:])],
    ):  # fmt: skip
        with pytest.raises(UserError, match="not what it was"):
            list(pack(wrong, tokenizer, **make).starting_at(after))
    whole = next(pack(documents, tokenizer, **make).starting_at(after))
    other = next(pack(changed(ends, "w5 w6"), tokenizer, **make).starting_at(after))
    assert torch.equal(whole.tokens, other.tokens)


def test_beginning_is_a_position(tokenizer):
    packed = pack(texts(20), tokenizer, ContextOptions(length=16), number_documents=False)
    pairs = zip(packed, packed.starting_at(TextPosition()), strict=True)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in pairs)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3000), max_size=6), st.integers(0, 2**32 - 1))
def test_digest_does_not_depend_on_pieces_or_interruptions(sizes, seed):
    draw = np.random.default_rng(seed)
    pieces = [torch.from_numpy(draw.integers(0, 50_000, size)) for size in sizes]
    whole, parts = TokenDigest(), TokenDigest()
    whole.update(torch.cat([torch.zeros(0, dtype=torch.int64), *pieces]))
    for piece in pieces:
        chain, rest = parts.state
        assert len(rest) < BLOCK_IDS
        parts = TokenDigest(chain, rest)
        parts.update(piece)
    assert parts.hexdigest() == whole.hexdigest()
    if sum(sizes):
        other = TokenDigest()
        other.update(torch.cat(pieces) + 1)
        assert other.hexdigest() != whole.hexdigest()


def test_a_tokenizer_s_fingerprint_sees_its_rules_and_not_its_last_call() -> None:
    def made(*, spaces: bool) -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
        kind = pre_tokenizers.WhitespaceSplit() if spaces else pre_tokenizers.Whitespace()
        backend.pre_tokenizer = kind
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", pad_token="?")

    one = made(spaces=True)
    before = tokenizer_fingerprint(one)
    one(["a b", "a"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(one) == before == tokenizer_fingerprint(made(spaces=True))
    assert tokenizer_fingerprint(made(spaces=False)) != before
