import logging

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mxd.data import ContextOptions, Document, pack, python_stdlib_documents, tokenising
from mxd.errors import UserError


def packed(documents, tokenizer, **options):
    batches = list(pack(documents, tokenizer, ContextOptions(**options)))
    tokens = torch.cat([batch.tokens for batch in batches])
    return (
        [tokenizer.convert_ids_to_tokens(row.tolist()) for row in tokens],
        torch.cat([batch.documents for batch in batches]).tolist(),
    )


@pytest.fixture
def two(words):
    return [words("a", 0, 5), words("b", 10, 6)]


def test_contexts_begin_with_bos_and_documents_are_separated(two, tokenizer):
    rows, documents = packed(two, tokenizer, length=4)
    assert rows == [
        ["<s>", "w0", "w1", "w2"],
        ["<s>", "w3", "w4", "</s>"],
        ["<s>", "w10", "w11", "w12"],
        ["<s>", "w13", "w14", "w15"],
    ]
    assert documents == [[0] * 4, [0] * 4, [1] * 4, [1] * 4]


def test_bos_separator_belongs_to_the_next_document(two, tokenizer):
    rows, documents = packed(two, tokenizer, length=8, separator="bos", begin_with_bos=False)
    assert rows == [["w0", "w1", "w2", "w3", "w4", "<s>", "w10", "w11"]]
    assert documents == [[0] * 5 + [1] * 3]


def test_documents_may_follow_without_separator(two, tokenizer):
    rows, documents = packed(two, tokenizer, length=12, separator="none")
    assert rows == [["<s>", *(f"w{i}" for i in [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15])]]
    assert documents == [[0] * 6 + [1] * 6]


def test_no_separator_where_document_and_context_begin_together(words, tokenizer):
    rows, _ = packed([words("a", 0, 3), words("b", 10, 3)], tokenizer, length=4)
    assert rows == [["<s>", "w0", "w1", "w2"], ["<s>", "w10", "w11", "w12"]]


def test_tokenizer_without_special_tokens_packs_words_only(two, make_tokenizer):
    rows, _ = packed(two, make_tokenizer(), length=5)
    assert rows == [["w0", "w1", "w2", "w3", "w4"], ["w10", "w11", "w12", "w13", "w14"]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    length=st.integers(2, 20),
    group=st.integers(1, 5),
    piece=st.integers(8, 60),
)
def test_no_token_is_lost_but_the_last_context(counts, length, group, piece, words, tokenizer):
    documents = [words(str(i), i * 7, count) for i, count in enumerate(counts)]
    expected = [
        (f"w{(i * 7 + j) % 100}", i) for i, count in enumerate(counts) for j in range(count)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenising, "_GROUP_DOCUMENTS", group)
        patch.setattr(tokenising, "_PIECE_CHARACTERS", piece)
        contexts = pack(documents, tokenizer, ContextOptions(length=length))
        try:
            batches = list(contexts)
        except UserError:
            batches = []
    flat = [
        pair
        for batch in batches
        for pair in zip(
            tokenizer.convert_ids_to_tokens(batch.tokens.flatten().tolist()),
            batch.documents.flatten().tolist(),
            strict=True,
        )
        if pair[0] not in ("<s>", "</s>")
    ]
    assert flat == expected[: len(flat)]
    assert len(expected) - len(flat) <= contexts.dropped_tokens < length


def test_records_of_one_document_have_one_number(words, tokenizer):
    documents = [words("a", 0, 3), words("b", 10, 3), words("a", 20, 3)]
    assert packed(documents, tokenizer, length=4)[1] == [[0] * 4, [1] * 4, [0] * 4]


def test_batches_hold_so_many_contexts(words, tokenizer):
    contexts = pack([words("a", 0, 70)], tokenizer, ContextOptions(length=8), contexts_per_batch=4)
    assert [tuple(batch.tokens.shape) for batch in contexts] == [(4, 8), (4, 8), (2, 8)]
    batch = next(iter(contexts))
    assert batch.tokens.dtype == torch.int64
    assert batch.documents.dtype == torch.int32
    assert contexts.dropped_tokens == 0


def test_dropped_tokens_are_counted_anew_in_each_epoch(two, tokenizer, caplog):
    contexts = pack(two, tokenizer, ContextOptions(length=8))
    with caplog.at_level(logging.INFO):
        first, second = list(contexts), list(contexts)
    assert torch.equal(first[0].tokens, second[0].tokens)
    assert contexts.dropped_tokens == 6
    assert "only 6 tokens and was dropped" in caplog.text


def test_special_strings_in_text_stay_text(words, tokenizer):
    text = "w1 <s> w2 </s> w3 w4 w5 w6"
    rows, _ = packed([Document("a", text)], tokenizer, length=12, begin_with_bos=False)
    assert "<s>" not in rows[0]
    assert "</s>" not in rows[0]
    assert rows[0][0] == "w1"


def test_special_strings_are_dropped_where_the_tokenizer_cannot_split_them():
    vocabulary = {"[UNK]": 0, "<s>": 1, "w1": 2, "w2": 3}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", unk_token="[UNK]"
    )
    rows, _ = packed([Document("a", "w1 <s> w2 other")], tokenizer, length=4)
    assert rows == [["<s>", "w1", "w2", "[UNK]"]]


def test_text_longer_than_the_models_context_gives_no_warning(words, tokenizer, caplog, capfd):
    list(pack([words("a", 0, 200)], tokenizer, ContextOptions(length=8)))
    assert "longer than" not in caplog.text + "".join(capfd.readouterr())


def test_tokenised_records_are_contexts_of_their_own(words, tokenizer):
    documents = [words("a", 0, 2), Document("b", None, [5, 6, 7, 8]), words("c", 50, 4)]
    rows, numbers = packed(documents, tokenizer, length=4)
    assert rows[0] == ["w4", "w5", "w6", "w7"]
    assert rows[1] == ["<s>", "w0", "w1", "</s>"]
    assert numbers == [[1] * 4, [0] * 4, [2] * 4]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3], r"record of 3 ids, expected contexts of length=4; set length=3"),
        ([1, 2, 3, 103], r"got token id 103 .* expected ids from 0 to 102"),
        ([1, 2, 3, -1], r"got token id -1 "),
    ],
)
def test_faulty_tokenised_record_is_a_users_error(ids, message, tokenizer):
    with pytest.raises(UserError, match=message):
        packed([Document("a", None, ids)], tokenizer, length=4)


def test_too_little_text_is_a_users_error(two, tokenizer):
    with pytest.raises(UserError, match=r"got 13 tokens of text, expected at least the 64 of one"):
        packed(two, tokenizer, length=64)


def test_options_out_of_range_are_refused():
    with pytest.raises(UserError, match="got length=1, expected 2 or more"):
        ContextOptions(length=1)
    # Under pytest the run-time check of types comes before the library's own.
    with pytest.raises((UserError, TypeError), match="separator"):
        ContextOptions(separator="tab")


def test_documents_are_read_as_contexts_are_asked_for(words, tokenizer):
    read = 0

    def documents():
        nonlocal read
        for i in range(10_000):
            read += 1
            yield words(str(i), i, 16)

    next(iter(pack(documents(), tokenizer, ContextOptions(length=8), contexts_per_batch=2)))
    assert read <= 64


@pytest.mark.shared
@pytest.mark.parametrize("name", ["models/small-gpt2", "data/stories260k", "data/gpt2_tokenizer"])
def test_real_tokenizers_pack_and_split_special_strings(shared, name):
    tokenizer = AutoTokenizer.from_pretrained(shared / name)
    text = "A page about <|endoftext|> and <s> and </s>. " * 20
    batches = list(pack([Document("a", text)], tokenizer, ContextOptions(length=64)))
    tokens = torch.cat([batch.tokens for batch in batches])
    assert (tokens[:, 0] == tokenizer.bos_token_id).all()
    assert not torch.isin(tokens[:, 1:], torch.tensor(tokenizer.all_special_ids)).any()
    assert tokenizer.decode(tokens[0, 1:]).strip() in text


@pytest.mark.shared
def test_stdlib_packs_with_a_real_tokenizer(shared):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "small-gpt2")
    documents = [document for _, document in zip(range(20), python_stdlib_documents())]  # noqa: B905
    tokens = torch.cat([batch.tokens for batch in pack(documents, tokenizer)])
    inside = int((tokens[:, 1:] == tokenizer.eos_token_id).sum())
    assert 15 <= inside <= 19
