"""Damaged files and records: an end with a way out, or left out, named and counted."""

import gzip
import json
import logging
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mxd.data import TextOptions, open_documents
from mxd.data.damage import MOST_NAMED
from mxd.errors import UserError

IN_ORDER = {"shuffle_documents": 0}
HINT = r"leave out what is damaged with --skip-damaged \(TextOptions\.skip_damaged\)"


def texts(source, **options):
    return [d.text for d in open_documents(source, TextOptions(skip_damaged=True, **options))]


def words(name, count=400):
    """Texts that gzip cannot make small, so that a half of the file holds many of them."""
    draw = random.Random(name)
    return [f"{name} {i} {draw.getrandbits(200):x}" for i in range(count)]


def lines(found):
    return "".join(json.dumps({"text": text}) + "\n" for text in found).encode()


@pytest.fixture
def shards(tmp_path):
    """Five files of which the second is cut, the third has two bad lines and the fourth is none."""
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines(words("a")))
    whole = gzip.compress(lines(words("b")), mtime=0)
    (folder / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    good = lines(words("c")).splitlines(keepends=True)
    good[10], good[20] = b'{"text": "\xff"}\n', b'{"text": \n'
    (folder / "c.jsonl").write_bytes(b"".join(good))
    (folder / "d.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"text": words("e")}), folder / "e.parquet")
    return folder


def expected(kept):
    """What is good in the shards, when so many documents of the second can be read."""
    c = words("c")
    del c[20], c[10]
    return [*words("a"), *words("b")[:kept], *c, *words("e")]


def test_what_is_damaged_is_left_out_and_the_rest_stays(shards):
    found = texts(shards, **IN_ORDER)
    kept = sum(text.startswith("b ") for text in found)
    assert 50 < kept < 250
    assert found == expected(kept)
    assert texts(shards, **IN_ORDER) == found
    mixed = texts(shards)
    assert sorted(mixed) == sorted(found) != mixed
    assert texts(shards) == mixed


def test_each_is_named_once_and_all_are_counted(shards, caplog):
    source = open_documents(shards, TextOptions(skip_damaged=True, **IN_ORDER))
    with caplog.at_level(logging.WARNING):
        assert list(source) == list(source)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 5
    assert "b.jsonl.gz, expected a whole gzip file" in said[0]
    assert "byte 0xff at offset 10 of line 11 in" in said[1]
    assert "invalid JSON in" in said[2]
    assert "line 21" in said[2]
    assert "d.parquet, expected a whole Parquet file" in said[3]
    assert said[4] == (
        f"left out 2 damaged records and the rest of 2 damaged files in all of {shards}"
    )
    assert not any("--skip-damaged" in line for line in said)


def test_sound_files_are_read_as_without_the_option(shards, caplog):
    for path in (shards / "a.jsonl", shards / "e.parquet"):
        with caplog.at_level(logging.WARNING):
            assert texts(path) == [document.text for document in open_documents(path)]
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["b.jsonl.gz", "c.jsonl", "d.parquet"])
def test_without_the_option_the_first_damage_ends_it_and_names_the_option(shards, name):
    for path in (shards / name, shards):
        with pytest.raises(UserError, match=HINT):
            list(open_documents(path))


@pytest.mark.parametrize(
    "line", [b"[1]", b'{"text": 3}', b'{"body": "x"}', b'{"text": [1, "b"]}', b"\x00", b"[" * 9999]
)
def test_records_of_another_kind_are_damage_too(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "x"}\n' + line + b'\n{"text": "y"}\n')
    assert texts(path, **IN_ORDER) == ["x", "y"]
    with pytest.raises(UserError, match=HINT):
        list(open_documents(path))


def test_text_file_that_is_not_utf8_is_left_out(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc \xe9 def")
    (tmp_path / "b.txt").write_text("good")
    assert texts(tmp_path) == ["good"]


def test_rows_of_parquet_that_are_not_utf8_are_left_out(tmp_path):
    raw = pa.array([b"x", b"\xff\xfe", b"z"] * 300, pa.binary())
    broken = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", **IN_ORDER) == ["x", "z"] * 300
    with pytest.raises(UserError, match=r"byte 0xff in row 2 .*a\.parquet, expected UTF-8"):
        list(open_documents(tmp_path / "a.parquet"))


def test_page_of_parquet_that_is_damaged_ends_its_file(tmp_path):
    path = tmp_path / "a.parquet"
    rows = words("a", 2000)
    pq.write_table(pa.table({"text": rows}), path, row_group_size=500, use_dictionary=False)
    raw = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    raw[start : start + 64] = b"\xff" * 64
    path.write_bytes(bytes(raw))
    (tmp_path / "b.jsonl").write_bytes(lines(["after"]))
    found = texts(tmp_path, **IN_ORDER)
    assert found[-1] == "after"
    assert found[:-1] == rows[: len(found) - 1]
    assert len(found) - 1 in range(750, 1001)
    with pytest.raises(UserError, match=HINT):
        list(open_documents(path))


def test_damage_everywhere_leaves_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{\n" * 3)
    with pytest.raises(UserError, match="got no text from"):
        texts(tmp_path / "a.jsonl")


def test_table_without_the_column_is_no_damage(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="expected a column 'text'") as caught:
        texts(tmp_path / "a.parquet")
    assert "--skip-damaged" not in str(caught.value)


def test_flood_of_damage_is_counted_and_named_in_part(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{\n" * 1000 + b'{"text": "x"}\n')
    with caplog.at_level(logging.WARNING):
        assert texts(path) == ["x"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == MOST_NAMED + 2
    assert "is counted, and not named" in said[-2]
    assert "left out 1000 damaged records" in said[-1]
