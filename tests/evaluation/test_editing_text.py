"""A study's text is split in halves that share no document, or no piece of one."""

import pytest
from transformers import PreTrainedTokenizerFast

from mxd.data import ContextOptions, Document, DocumentSource
from mxd.errors import UserError
from mxd.evaluation import StudyText, study_text

OPTIONS = ContextOptions(length=8, separator="none", begin_with_bos=False)


def source(*texts: tuple[str, str]) -> DocumentSource:
    return DocumentSource("some text", lambda: iter([Document(key, text) for key, text in texts]))


def words(half: list) -> set[int]:
    return {int(token) for batch in half for token in batch.tokens.flatten()}


def test_documents_are_halved_and_equal_keys_stay_together(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    # Document n says its own word alone; every document comes twice.
    texts = [(f"d{n}", " ".join([f"w{n + 3}"] * 16)) for n in (*range(12), *range(12))]
    found = study_text(source(*texts), tokenizer, tokens=1000, options=OPTIONS)
    assert words(found.ranking) == set(range(3, 15, 2))
    assert words(found.measuring) == set(range(4, 15, 2))
    assert found.describe() == {
        "text": "some text", "split": "documents", "ranking_tokens": 192, "ranking_documents": 6,
        "measuring_tokens": 192, "measuring_documents": 6,
    }  # fmt: skip


def test_a_single_document_is_cut_into_pieces(tokenizer: PreTrainedTokenizerFast) -> None:
    text = " ".join(f"w{3 + n // 8}" for n in range(480))
    found: StudyText = study_text(source(("one", text)), tokenizer, tokens=1000, options=OPTIONS)
    described = found.describe()
    assert described["split"] == "pieces"
    assert described["ranking_documents"] >= 4
    assert described["measuring_documents"] >= 4
    assert described["ranking_tokens"] + described["measuring_tokens"] >= 480 - 16
    assert max(words(found.ranking)) <= min(words(found.measuring))  # first half, second half
    assert words(found.ranking) | words(found.measuring) >= set(range(3, 62))


def test_no_more_tokens_than_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [(f"d{n}", " ".join([f"w{n + 3}"] * 16)) for n in range(40)]
    described = study_text(source(*texts), tokenizer, tokens=160, options=OPTIONS).describe()
    assert (described["ranking_tokens"], described["measuring_tokens"]) == (80, 80)
    assert described["measuring_documents"] >= 8  # spread over the text


def test_text_that_is_too_short(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="some text cannot be split in two halves: got"):
        study_text(source(("one", "w3 w4 w5")), tokenizer, options=OPTIONS)
