import gzip
import json
import logging
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mxd.data import Document, TextOptions, open_documents
from mxd.data.documents import text_key, token_key
from mxd.errors import UserError

IN_ORDER = TextOptions(shuffle_documents=0)


def texts(source, options=IN_ORDER):
    return [document.text for document in open_documents(source, options)]


def records(*names):
    return [{"text": name} for name in names]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "A.JSONL"])
def test_json_lines_are_read_and_can_be_read_again(tmp_path, write_jsonl, name):
    path = write_jsonl(tmp_path / name, *records("one", "two"))
    source = open_documents(path, IN_ORDER)
    assert list(source) == list(source) == [Document(text_key(t), t) for t in ("one", "two")]


def test_json_lines_are_split_on_newline_only(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"text": "one\u2028two\x85three"}\r\n\n'.encode())
    assert texts(path) == ["one\u2028two\x85three"]


def test_lone_surrogates_become_text_that_can_be_encoded(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a \\ud800 b"}\n')
    assert texts(path) == ["a ? b"]


def test_parquet_is_read_with_its_documents(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x", "y", None], "doc": [3, 3, 4], "n": [1, 2, 3]}), path)
    assert list(open_documents(path, IN_ORDER)) == [Document("3", "x"), Document("3", "y")]


def test_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("first\n\nsecond\n", encoding="utf-8")
    assert texts(path) == ["first\n\nsecond\n"]


def test_folder_is_read_recursively_in_order_without_hidden_files(tmp_path, write_jsonl):
    write_jsonl(tmp_path / "b" / "x.jsonl.gz", {"text": "two"})
    write_jsonl(tmp_path / "a.jsonl", {"text": "one"})
    (tmp_path / "c.txt").write_text("three")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "manifest.json").write_text(json.dumps({"files": 3}, indent=1))
    write_jsonl(tmp_path / ".hidden.jsonl", {"text": "no"})
    write_jsonl(tmp_path / ".git" / "x.jsonl", {"text": "no"})
    assert texts(tmp_path) == ["one", "two", "three"]


def test_glob_and_list_of_sources_are_read(tmp_path, write_jsonl):
    for name in ("train-1", "train-2", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", {"text": name})
    assert texts(str(tmp_path / "train-*.jsonl")) == ["train-1", "train-2"]
    both = [tmp_path / "test.jsonl", str(tmp_path / "*-2.jsonl")]
    assert texts(both) == ["test", "train-2"]


def test_dataset_folder_saved_to_disk_is_read(tmp_path):
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    test = datasets.Dataset.from_dict({"text": ["c"], "label": [0]})
    train.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "dict")
    assert texts(tmp_path / "one") == ["a", "b"]
    assert texts(tmp_path / "dict") == ["a", "b"]
    assert texts(tmp_path / "dict", TextOptions(split="test")) == ["c"]
    with pytest.raises(UserError, match=r"got split 'dev' .* expected one of 'train', 'test'"):
        open_documents(tmp_path / "dict", TextOptions(split="dev"))


def test_dataset_folder_with_a_card_follows_its_splits(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        for shard in range(3):
            table = pa.table({"text": [f"{split} {shard}"], "other": [1]})
            pq.write_table(table, tmp_path / "data" / f"{split}-{shard}.parquet")
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n"
    card += "".join(f"  - split: {s}\n    path: data/{s}-*\n" for s in ("train", "test"))
    (tmp_path / "README.md").write_text(card + "---\n# Data\n")
    assert texts(tmp_path) == ["train 0", "train 1", "train 2"]
    shuffled = TextOptions(split="test", seed=3)
    assert sorted(texts(tmp_path, shuffled)) == ["test 0", "test 1", "test 2"]
    assert texts(tmp_path, shuffled) == texts(tmp_path, shuffled)
    with pytest.raises(UserError, match=r"configuration None and split 'nope'"):
        open_documents(tmp_path, TextOptions(split="nope"))
    with pytest.raises(UserError, match=r"got 'text', 'other' in .* expected a column 'body'"):
        open_documents(tmp_path, TextOptions(column="body"))


def test_records_of_one_document_share_its_key(tmp_path, write_jsonl):
    path = write_jsonl(
        tmp_path / "a.jsonl",
        {"text": "x", "doc": "novel"},
        {"text": "y", "doc": "novel"},
        {"text": "x"},
        {"text": "x", "doc": None},
    )
    keys = [document.key for document in open_documents(path, IN_ORDER)]
    assert keys == ["novel", "novel", text_key("x"), text_key("x")]


def test_records_of_token_ids_are_contexts(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", {"input_ids": [1, 2]}, {"input_ids": [3], "doc": "d"})
    expected = [Document(token_key([1, 2]), None, [1, 2]), Document("d", None, [3])]
    assert list(open_documents(path, IN_ORDER)) == expected
    pq.write_table(pa.table({"input_ids": [[1, 2]]}), tmp_path / "a.parquet")
    assert list(open_documents(tmp_path / "a.parquet")) == expected[:1]
    path = write_jsonl(tmp_path / "b.jsonl", {"tokens": [1, 2]})
    assert list(open_documents(path, TextOptions(column="tokens"))) == expected[:1]


def test_order_depends_on_the_seed_alone(tmp_path, write_jsonl):
    for shard in range(3):
        names = [f"{shard}-{i}" for i in range(40)]
        write_jsonl(tmp_path / f"{shard}.jsonl", *records(*names))
    first = texts(tmp_path, TextOptions(seed=1, shuffle_documents=16))
    assert first == texts(tmp_path, TextOptions(seed=1, shuffle_documents=16))
    assert first != texts(tmp_path, TextOptions(seed=2, shuffle_documents=16))
    assert sorted(first) == sorted(texts(tmp_path)) != first


def test_shuffling_holds_no_more_than_its_buffer(tmp_path, write_jsonl, monkeypatch):
    from mxd.data import sources

    read = 0
    original = sources.to_document

    def counting(*arguments):
        nonlocal read
        read += 1
        return original(*arguments)

    monkeypatch.setattr(sources, "to_document", counting)
    path = write_jsonl(tmp_path / "a.jsonl", *records(*(str(i) for i in range(500))))
    served = 0
    for _ in open_documents(path, TextOptions(shuffle_documents=20)):
        served += 1
        assert read - served <= 20
    assert served == 500


def test_records_without_text_are_left_out_with_a_warning(tmp_path, write_jsonl, caplog):
    path = write_jsonl(tmp_path / "a.jsonl", *records("x", "", " \n", None))
    with caplog.at_level(logging.WARNING):
        assert texts(path) == ["x"]
    assert "left out 3 records without text" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"0xff at offset 10 of line 2 in .*a\.j"),
        ("a.txt", b"abc \xe9 def", r"byte 0xe9 at offset 4 in .*a\.txt, expected UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"invalid JSON in .*a\.jsonl, line 2"),
        ("a.json", b'{\n "text": "x"\n}\n', r"invalid JSON in .*a\.json, line 1"),
        ("a.jsonl", b"[1, 2]\n", r"value of type list in .*line 1, expected an object"),
        ("a.jsonl", b'{"text": 3}\n', r"type int in column 'text' of .*line 1, expected text or"),
        ("a.jsonl", b'{"text": [1, "b"]}\n', r"type list in column 'text'"),
        ("a.jsonl", b'{"text": [true]}\n', r"type list in column 'text'"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', r"got 'body', 'id' in .*line 1, .*'text' of text"),
        ("a.jsonl", b"", r"got no text from .*a\.jsonl, expected at least one document"),
        ("a.txt", b" \n", r"got no text from"),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet, expected a whole Parquet file"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz, expected a whole gzip file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-9],
            r"a\.jsonl\.gz, .*truncated",
        ),
        ("a.pdf", b"%PDF", r"a\.pdf, expected a file that ends in \.jsonl, \.jsonl\.gz"),
    ],
)
def test_faulty_file_is_a_users_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        texts(tmp_path / name)


def test_damage_inside_gzip_is_a_users_error(tmp_path):
    raw = bytearray(gzip.compress(b'{"text": "x"}\n{"text": "yzab"}\n', mtime=0))
    raw[14] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(bytes(raw))
    with pytest.raises(UserError, match=r"a\.jsonl\.gz"):
        texts(tmp_path / "a.jsonl.gz")


def test_parquet_without_the_column_lists_its_columns(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"got 'body', 'id' in .*a\.parquet"):
        texts(tmp_path / "a.parquet")


def test_folder_or_glob_without_text_is_a_users_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"without any text file, expected files that end in \.j"):
        open_documents(tmp_path)
    with pytest.raises(UserError, match=r"the glob .* without any text file"):
        open_documents(f"{tmp_path}/*.png")
    with pytest.raises(UserError, match="which matches nothing"):
        open_documents(f"{tmp_path}/*.jsonl")


@pytest.mark.parametrize("source", ["/no/such/file.jsonl", "nowhere.txt", "a/b/c", "./nothing"])
def test_source_that_does_not_exist_is_a_users_error(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="which does not exist, expected a file, a folder"):
        open_documents(source)


def test_unreachable_hub_fails_at_once(monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(UserError, match=r"'owner/data', which is no existing path, .*cannot be re"):
        open_documents("owner/data")


def test_hub_switched_off_fails_at_once(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"'owner/data', .* the hub is switched off"):
        open_documents("owner/data")


def test_hub_dataset_is_streamed_without_remote_code(monkeypatch):
    import huggingface_hub

    asked = {}

    def load(*arguments, **options):
        asked.update(options, arguments=arguments)
        return datasets.Dataset.from_dict({"text": ["a", "b"]}).to_iterable_dataset()

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_documents("owner/data", TextOptions(dataset_name="en", split="validation"))
    assert {document.text for document in source} == {"a", "b"}
    assert asked == {"arguments": ("owner/data", "en"), "split": "validation", "streaming": True}


def test_error_while_streaming_is_a_users_error():
    from mxd.data.hub import read_dataset

    def broken():
        yield {"text": "a"}
        raise RuntimeError("connection lost")

    reading = read_dataset(broken(), "owner/data")
    assert next(reading) == ("owner/data, record 1", {"text": "a"})
    with pytest.raises(UserError, match=r"reading the data set owner/data.*connection lost"):
        next(reading)


def test_negative_shuffle_buffer_is_a_users_error():
    with pytest.raises(UserError, match="got shuffle_documents=-1, expected 0 or more"):
        TextOptions(shuffle_documents=-1)


@pytest.mark.shared
def test_shared_corpus_is_read(shared: Path):
    source = open_documents(shared / "data" / "corpus" / "validation*.jsonl.gz")
    documents = list(source)
    assert len(documents) == 177
    assert len({document.key for document in documents}) < 177
    assert documents == list(source)
