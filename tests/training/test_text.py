"""Documents that are trained on are never evaluated on."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from mxd.data import Document, TextOptions
from mxd.errors import UserError
from mxd.training import TextRecipe, evaluation_documents, first_documents, training_documents
from mxd.training.text import MAX_EVALUATION_DOCUMENTS


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "corpus.jsonl", [f"document number {i}" for i in range(200)])


def write(path: Path, texts: Iterable[str]) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return path


def texts(documents: Iterable[Document]) -> set[str]:
    return {document.text or "" for document in documents}


def test_holdout_parts_are_disjoint_and_make_up_the_whole(corpus: Path) -> None:
    recipe = TextRecipe(source=str(corpus), holdout=0.25)
    training, held_out = (
        texts(part(recipe, 42)) for part in (training_documents, evaluation_documents)
    )
    assert not training & held_out
    assert training | held_out == {f"document number {i}" for i in range(200)}
    assert 20 <= len(held_out) <= 80


def test_holdout_depends_on_the_seed_alone(corpus: Path, tmp_path: Path) -> None:
    recipe = TextRecipe(source=str(corpus), holdout=0.25)
    shuffled = write(tmp_path / "again.jsonl", [f"document number {i}" for i in range(199, -1, -1)])
    other = TextRecipe(source=str(shuffled), holdout=0.25, options=TextOptions(seed=3))
    assert texts(evaluation_documents(recipe, 1)) == texts(evaluation_documents(other, 1))
    assert texts(evaluation_documents(recipe, 1)) != texts(evaluation_documents(recipe, 2))


def test_duplicates_are_on_one_side(tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.jsonl", [f"document number {i % 50}" for i in range(200)])
    recipe = TextRecipe(source=str(twice), holdout=0.3)
    training, held_out = training_documents(recipe, 0), evaluation_documents(recipe, 0)
    assert not texts(training) & texts(held_out)
    assert sum(1 for _ in training) + sum(1 for _ in held_out) == 200


def test_documents_of_the_evaluation_text_are_not_trained_on(corpus: Path, tmp_path: Path) -> None:
    overlapping = [f"document number {i}" for i in range(150, 250)]
    recipe = TextRecipe(
        source=str(corpus), eval_source=str(write(tmp_path / "eval.jsonl", overlapping))
    )
    training = texts(training_documents(recipe, 42))
    assert training == {f"document number {i}" for i in range(150)}
    assert texts(evaluation_documents(recipe, 42)) == set(overlapping)


def test_evaluation_text_that_is_the_whole_training_text_is_refused(corpus: Path) -> None:
    recipe = TextRecipe(source=str(corpus), eval_source=str(corpus))
    with pytest.raises(UserError, match="without the documents of the evaluation text"):
        list(training_documents(recipe, 42))


def test_holdout_of_too_few_documents_says_what_to_do(tmp_path: Path) -> None:
    recipe = TextRecipe(source=str(write(tmp_path / "one.jsonl", ["one"])), holdout=1e-9)
    with pytest.raises(UserError, match="raise holdout"):
        list(evaluation_documents(recipe, 42))


def test_first_documents_ends_a_long_source(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_EVALUATION_DOCUMENTS == 20_000
    monkeypatch.setattr("mxd.training.text.MAX_EVALUATION_DOCUMENTS", 7)
    recipe = TextRecipe(source=str(corpus), eval_source=str(corpus))
    documents = evaluation_documents(recipe, 42)
    assert sum(1 for _ in documents) == 7
    assert sum(1 for _ in documents) == 7  # it can be read again
    assert first_documents(documents).description == documents.description
