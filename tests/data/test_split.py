import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxd.data import Document, document_keys, split_documents, without_documents
from mxd.errors import UserError

texts = st.lists(st.text(min_size=1), min_size=2, max_size=40)


def keys_of(source):
    try:
        return [document.key for document in source]
    except UserError:
        return []


@given(names=texts, seed=st.integers(), holdout=st.floats(0.01, 0.99))
def test_split_puts_every_document_on_exactly_one_side(names, seed, holdout):
    documents = [Document(name, name) for name in names]
    train, held = (keys_of(side) for side in split_documents(documents, holdout=holdout, seed=seed))
    assert not set(train) & set(held)
    assert sorted(train + held) == sorted(names)


@given(names=texts, seed=st.integers(), order=st.randoms())
def test_split_does_not_depend_on_the_order(names, seed, order):
    documents = [Document(name, name) for name in names]
    held = set(keys_of(split_documents(documents, holdout=0.5, seed=seed)[1]))
    order.shuffle(documents)
    half = documents[: len(documents) // 2]
    assert set(keys_of(split_documents(half, holdout=0.5, seed=seed)[1])) == held & {
        document.key for document in half
    }


def test_split_holds_out_about_the_share_and_follows_the_seed():
    documents = [Document(str(i), "x") for i in range(4000)]
    held = [keys_of(split_documents(documents, holdout=0.05, seed=seed)[1]) for seed in (1, 2)]
    assert all(150 < len(side) < 250 for side in held)
    assert held[0] != held[1]


def test_split_can_be_iterated_again():
    train, held = split_documents([Document(str(i), "x") for i in range(50)], seed=0, holdout=0.5)
    assert list(train) == list(train)
    assert list(held) == list(held)


def test_empty_side_is_a_users_error():
    _, held = split_documents([Document("a", "x")], holdout=1e-9, seed=0)
    with pytest.raises(
        UserError, match=r"got no text from the held-out part .*raise holdout=1e-09"
    ):
        list(held)


@pytest.mark.parametrize("holdout", [0.0, 1.0, -0.1, float("nan")])
def test_share_out_of_range_is_a_users_error(holdout):
    with pytest.raises(UserError, match=r"expected a share above 0 and below 1"):
        split_documents([Document("a", "x")], holdout=holdout, seed=0)


@given(train=texts, evaluation=texts)
def test_documents_of_the_evaluation_set_are_left_out(train, evaluation):
    named = [Document(f"train {i}", text) for i, text in enumerate(train)]
    other = [Document(f"evaluation {i}", text) for i, text in enumerate(evaluation)]
    rest = without_documents(named, document_keys(other))
    expected = [document for document in named if document.text not in evaluation]
    assert keys_of(rest) == [document.key for document in expected]


def test_documents_are_left_out_by_key_and_by_token_ids():
    documents = [
        Document("a", "x"),
        Document("b", "y"),
        Document("c", None, [1, 2]),
        Document("d", "z"),
    ]
    evaluation = [Document("a", "other"), Document("e", None, [1, 2])]
    assert keys_of(without_documents(documents, document_keys(evaluation))) == ["b", "d"]


def test_nothing_left_is_a_users_error():
    documents = [Document("a", "x")]
    with pytest.raises(UserError, match="without the documents of the evaluation text"):
        list(without_documents(documents, {"a"}))
