import gzip
import json
from pathlib import Path

import huggingface_hub
import pytest
from tests.cli._parts import small, write_text


def _lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


_FEW = [{"text": "w3 w4", "doc": f"d{i}"} for i in range(6)]
_FAULTY_FILES = {
    "empty": ("a.jsonl", b"", ["no text"]),
    "blank": ("a.jsonl", _lines({"text": " "}), ["no text"]),
    "few tokens": ("a.jsonl", _lines(*_FEW), ["tokens of text", "16", "more text"]),
    "latin-1 text": ("a.txt", b"caf\xe9 " * 400, ["0xe9 at offset 3", "UTF-8", "iconv"]),
    "latin-1 json": ("a.jsonl", b'{"text": "caf\xe9"}', ["0xe9", "line 1", "UTF-8"]),
    "not json": ("a.jsonl", b"{text: w3}", ["invalid JSON", "line 1"]),
    "no object": ("a.jsonl", b"3\n", ["line 1", "expected an object"]),
    "number as text": ("a.jsonl", b'{"text": 3}\n', ["int", "expected text"]),
    "other column": ("a.jsonl", _lines({"body": "w3", "id": 1}), ["'body'", "'id'", "'text'"]),
    "not gzip": ("a.jsonl.gz", _lines(*_FEW), ["gzip", "damaged"]),
    "half a gzip": ("a.jsonl.gz", gzip.compress(_lines(*_FEW))[:30], ["gzip", "truncated"]),
    "not parquet": ("a.parquet", b"PAR1", ["Parquet", "damaged"]),
    "other ending": ("a.csv", b"text\nw3\n", [".jsonl", ".parquet", ".txt"]),
    "ids beyond the vocabulary": (
        "a.jsonl",
        _lines(*({"input_ids": [900 + i] * 16} for i in range(9))),
        ["token id 9", "expected ids from 0 to 63"],
    ),
}


@pytest.mark.parametrize("fault", list(_FAULTY_FILES))
def test_faulty_file_is_refused(cli, saved, tmp_path, fault):
    name, content, named = _FAULTY_FILES[fault]
    (tmp_path / name).write_bytes(content)
    arguments = ["fit", saved("gpt2"), *small(text=tmp_path / name, batch_tokens=16)]
    where = [] if fault in ("few tokens", "ids beyond the vocabulary") else [name]
    cli.refuses(arguments, *named, *where)


@pytest.mark.parametrize("flag", ["text", "eval_text"])
@pytest.mark.parametrize("source", ["missing.jsonl", "no/such/folder", "*.nothing", "no/dataset"])
def test_absent_text_is_refused(cli, saved, text, flag, source):
    arguments = ["fit", saved("gpt2"), *small(**{"text": text, flag: source})]
    cli.refuses(arguments, f"'{source}'", "expected")


def test_folder_without_text_is_refused(cli, saved, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = ["fit", saved("gpt2"), *small(text=tmp_path / "empty")]
    cli.refuses(arguments, tmp_path / "empty", "without any text file", ".jsonl")


def test_data_set_of_an_unreachable_hub_is_refused_at_once(cli, saved, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    cli.refuses(
        ["fit", saved("gpt2"), *small(text="owner/nosuch")], "owner/nosuch", "cannot be reached"
    )


def test_holdout_that_leaves_nothing_to_train_on_is_refused(cli, saved, tmp_path):
    (tmp_path / "one.jsonl").write_bytes(_lines({"text": "w3 " * 400}))
    flags = small(text=tmp_path / "one.jsonl", holdout=0.999)
    cli.refuses(["fit", saved("gpt2"), *flags], "training part", "one.jsonl", "lower holdout=0.999")


def test_text_column_lists_the_columns_there_are(cli, saved, text):
    arguments = ["fit", saved("gpt2"), *small(text=text, text_column="body")]
    cli.refuses(arguments, "'body'", "'text', 'doc'", text)


def test_evaluation_text_that_is_the_training_text_is_refused(cli, saved, text):
    arguments = ["fit", saved("gpt2"), *small(text=text, eval_text=text)]
    cli.refuses(arguments, text, "evaluation text")


def test_evaluation_text_too_short_for_a_context_is_refused(cli, saved, text, tmp_path):
    short = tmp_path / "short.jsonl"
    short.write_bytes(_lines({"text": "w3 w4"}))
    out = tmp_path / "run"
    cli.succeeds("fit", saved("gpt2"), *small(text=text, eval_text=short, out=out))
    cli.refuses(["eval", out], "3 tokens", "16")


def test_less_text_than_a_batch_is_refused(cli, saved, tmp_path):
    path: Path = write_text(tmp_path / "few.jsonl.gz", documents=4)
    cli.refuses(["fit", saved("gpt2"), *small(text=path, batch_tokens=512)], "512", "one batch")
