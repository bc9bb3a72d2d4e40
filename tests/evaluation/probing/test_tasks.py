import gzip
import json
from collections import Counter

import pytest
from tests.evaluation.probing._parts import marked_texts, write_rows

from mxd import UserError
from mxd.evaluation.probing import load_task

TEXT = {"text": "w3 w4 w5 w6 w7", "label": "a"}
SENTENCE = {"tokens": ["w3", "w4"], "tags": ["a", "b"]}


def test_splits_of_the_file_are_kept(tmp_path):
    path = tmp_path / "marked.jsonl.gz"
    lines = "".join(json.dumps(row) + "\n" for row in marked_texts())
    path.write_bytes(gzip.compress(lines.encode()))
    task = load_task(path)
    assert (task.name, task.level, task.take, task.length) == ("marked", "text", "first", 127)
    assert task.labels("train") == Counter(c0=30, c1=30, c2=30)
    assert [each.text for each in task.examples] == [row["text"] for row in marked_texts()]


def test_rows_without_a_split_are_split_within_each_class(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "split"} for row in marked_texts()]
    path = write_rows(tmp_path / "t.jsonl", rows)
    task = load_task(path, seed=1)
    assert task.labels("train") == Counter(c0=32, c1=32, c2=32)
    assert task.labels("test") == Counter(c0=8, c1=8, c2=8)
    assert load_task(path, seed=1) == task
    assert load_task(path, seed=2) != task


@pytest.mark.parametrize("row", [SENTENCE, TEXT], ids=["sentences", "texts"])
def test_rows_without_a_split_are_split_by_document(tmp_path, row):
    rows = [{**row, "doc": f"d{i // 4}"} for i in range(120)]
    if row is TEXT:  # each document has texts of both classes
        rows = [{**each, "label": "ab"[i % 2]} for i, each in enumerate(rows)]
    task = load_task(write_rows(tmp_path / "t.jsonl", rows))
    sides = {each.document: set() for each in task.examples}
    for each in task.examples:
        sides[each.document].add(each.split)
    assert all(len(side) == 1 for side in sides.values())
    assert task.labels("train")["a"] == (96 if row is SENTENCE else 48)


def test_limit_draws_evenly_from_classes_and_splits(tmp_path):
    task = load_task(write_rows(tmp_path / "t.jsonl", marked_texts(80)), limit=120)
    assert task.labels("train") == Counter(c0=30, c1=30, c2=30)
    assert task.labels("test") == Counter(c0=10, c1=10, c2=10)


def test_numbers_are_labels_too_and_halves_of_pairs_are_replaced(tmp_path):
    rows = [{"text": "w3 \ud800 w4", "label": i % 2} for i in range(80)]
    task = load_task(write_rows(tmp_path / "t.jsonl", rows))
    assert set(task.labels("train")) == {"0", "1"}
    assert task.examples[0].text == "w3 ? w4"


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (["text"], ["no 'text' in", "line 2"]),
        ({"label": "a"}, ["no 'text'", "line 2"]),
        ({"text": "w3"}, ["no 'label'", "line 2"]),
        ({**TEXT, "text": 3}, ["type int", "'text'", "line 2"]),
        ({**TEXT, "label": ["a"]}, ["['a']", "'label'", "line 2"]),
        ({**TEXT, "label": True}, ["True", "'label'", "line 2"]),
        ({**TEXT, "label": " "}, ["' '", "'label'", "line 2"]),
        ({**TEXT, "split": "validation"}, ["'validation'", "'train' or 'test'", "line 2"]),
        ({**TEXT, "split": 1}, ["split 1", "line 2"]),
        (SENTENCE, ["no 'text'", "line 2"]),
    ],
)
def test_faulty_row_is_refused_with_its_line(tmp_path, row, named):
    _refused(write_rows(tmp_path / "t.jsonl", [TEXT, row]), named)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (TEXT, ["no 'tokens'", "line 2"]),
        ({**SENTENCE, "tags": ["a"]}, ["2 tokens and 1 tags", "line 2"]),
        ({"tokens": [], "tags": []}, ["0 tokens", "line 2"]),
        ({**SENTENCE, "tokens": "w3 w4"}, ["type str", "a list", "line 2"]),
        ({**SENTENCE, "tokens": ["w3", 4]}, ["type int", "words", "line 2"]),
        ({**SENTENCE, "tags": ["a", None]}, ["None", "'tags'", "line 2"]),
    ],
)
def test_faulty_sentence_is_refused_with_its_line(tmp_path, row, named):
    _refused(write_rows(tmp_path / "t.jsonl", [SENTENCE, row]), named)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], ["no rows"]),
        ([{"x": 1}], ["'x'", "'text' and 'label'", "line 1"]),
        ([TEXT] * 100, ["single class 'a'"]),
        ([TEXT, {**TEXT, "split": "train"}], ["1 of 2 rows", "without a split"]),
        (
            [TEXT] * 100 + [{**TEXT, "label": "b"}] * 20,
            ["16 training", "class 'b'", "at least 20"],
        ),
        (
            [{**TEXT, "split": "train", "label": label} for label in "ab"] * 30,
            ["30 training and 0 test", "class 'a'"],
        ),
        ([SENTENCE] * 10, ["8 training", "at least 20"]),
        (
            [{"tokens": ["w3"], "tags": ["a"], "split": "train"}] * 30
            + [{**SENTENCE, "split": "test"}] * 5,
            ["training examples of the single class 'a'"],
        ),
    ],
    ids=[
        "empty",
        "other",
        "one class",
        "half split",
        "few",
        "no test",
        "few sentences",
        "one tag to train on",
    ],
)
def test_unfit_file_is_refused(tmp_path, rows, named):
    _refused(write_rows(tmp_path / "t.jsonl", rows), named)


def test_what_is_no_json_or_no_file_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(TEXT) + "\nnot json\n", encoding="utf-8")
    _refused(path, ["invalid JSON", "line 2"])
    path.write_bytes(b"\xff\xfe")
    _refused(path, ["UTF-8"])
    (tmp_path / "t.jsonl.gz").write_bytes(b"nothing")
    _refused(tmp_path / "t.jsonl.gz", ["damaged"])
    _refused(tmp_path / "gone.jsonl", ["gone.jsonl", "ag_news"])
    _refused(tmp_path, ["expected ag_news"])


def test_options_out_of_range_are_refused(tmp_path):
    path = write_rows(tmp_path / "t.jsonl", marked_texts())
    tagged = write_rows(tmp_path / "s.jsonl", [SENTENCE] * 60)
    with pytest.raises(UserError, match="take='first' for the tagged words"):
        load_task(tagged, take="first")
    for options, named in (({"limit": 0}, "limit=0"), ({"data": path}, "data for")):
        with pytest.raises(UserError, match=named):
            load_task(path, **options)


def _refused(path, named):
    with pytest.raises(UserError) as error:
        load_task(path)
    for name in named:
        assert name in str(error.value)
