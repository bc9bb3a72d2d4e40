"""Holes that texts, settings and results from outside once found: each stays closed."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.report.synthetic import Synthetic

from mxd.cli._paths import lasting
from mxd.cli.fit import fit_layers
from mxd.data import open_documents, readers
from mxd.data.text_options import TextOptions
from mxd.errors import UserError
from mxd.evaluation.judging.cache import VerdictCache
from mxd.report import reading
from mxd.report.reading import read_run_files
from mxd.training import read_ablations


@pytest.mark.parametrize("name", ["a\0b.jsonl", "~nobody-of-this-name/x.jsonl", "*\0", "x" * 5000])
def test_source_that_no_file_can_be(name: str) -> None:
    with pytest.raises(UserError, match=r"got '?.*(x|a|~|\*)"):
        list(open_documents(name))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.parquet"])
def test_text_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(UserError, match="expected a plain file"):
            list(open_documents(source))


def test_small_file_with_a_giant_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_LONGEST_LINE", 10_000)
    line = json.dumps({"text": "x" * 20_000}).encode()
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "fine"}\n' + line))
    with pytest.raises(UserError, match=r"more than 10000 bytes in .*, line 2"):
        list(open_documents(path))


def test_record_that_is_nested_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine", "doc": ' + "[" * 300 + "]" * 300 + "}\n")
    with pytest.raises(UserError, match="nested deeper"):
        list(open_documents(path))


def test_small_line_that_takes_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text":[' + b"{}," * 1_100_000 + b"{}]}"))
    with pytest.raises(UserError, match="lists and objects"):
        list(open_documents(path))


def test_long_rows_of_a_table_are_read_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": "x" * 3_000 + str(i)} for i in range(40)]
    short = [{"text": str(i)} for i in range(300)]
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, pa.schema({"text": pa.string()}), use_dictionary=False) as file:
        for group in (rows, short):
            file.write_table(pa.Table.from_pylist(group))
    sizes = []
    made = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, **options: Any) -> Any:
        sizes.append(options["batch_size"])
        return made(self, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    monkeypatch.setattr(readers, "_MOST_BATCH_BYTES", 10_000)
    found = [record["text"] for _, record in readers.read_parquet(path, TextOptions())]
    assert found == [row["text"] for row in (*rows, *short)]
    assert sizes[0] <= 3
    assert sizes[1] == 256
    monkeypatch.setattr(readers, "_LONGEST_LINE", 1_000)
    with pytest.raises(UserError, match=r"rows of \d+ bytes"):
        list(open_documents(path))


def test_ablations_that_grow_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    lines = "".join(f"b{i}: &b{i} [*b{i - 1}, *b{i - 1}]\n" for i in range(1, 40))
    path.write_text(f"b0: &b0 [x]\n{lines}ablations: *b39\n")
    with pytest.raises(UserError, match="got an alias"):
        read_ablations(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: []", "empty list"),
        ("k: &a [1]\nseed: *a", "an alias"),
        ("k: 1\nk: 2", "a key twice"),
    ],
    ids=["empty", "alias", "twice"],
)
def test_flags_from_a_file_that_mean_nothing(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "flags.yaml").write_text(content)
    with pytest.raises(click.UsageError, match=said):
        fit_layers.make_context("fit", ["model", "--config", str(tmp_path / "flags.yaml")])


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_names_that_no_path_has_stay_as_they_are(name: str) -> None:
    assert lasting(name) == name


@pytest.mark.parametrize("text", ["a\\0b", "\\ud800"])
@pytest.mark.parametrize("key", ["out", "text", "arch"])
def test_flags_from_a_file_that_no_command_line_holds(tmp_path: Path, key: str, text: str) -> None:
    (tmp_path / "flags.yaml").write_text(f'{key}: "{text}"')
    with pytest.raises(click.UsageError, match="half a character"):
        fit_layers.make_context("fit", ["model", "--config", str(tmp_path / "flags.yaml")])


def test_answers_of_a_judge_that_are_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "answers.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        VerdictCache(tmp_path / "answers.jsonl")


def test_results_that_are_no_plain_files_are_left_out_and_named(tmp_path: Path) -> None:
    folder = Synthetic(ks=(16,), seeds=(1,)).write(tmp_path / "run")
    os.mkfifo(folder / "eval" / "pipe.json")
    (folder / "eval" / "folder.json").mkdir()
    (folder / "eval" / "deep.json").write_text('{"a": ' + "[" * 500 + "]" * 500 + "}")
    (folder / "eval" / "out.json").symlink_to(tmp_path / "run" / "run.json")
    (folder / "metrics.jsonl").write_text('{"a": ' + "[" * 500 + "]" * 500 + '}\n{"step": 1}\n')
    found = read_run_files(folder)
    assert {"held-out", "doctor"} <= set(found.documents)
    for name in ("pipe", "folder", "deep", "out"):
        assert name not in found.documents
        assert any(f"{name}.json is damaged" in problem for problem in found.problems)
    assert found.metrics == [{"step": 1}]


def test_results_that_lie_elsewhere_are_left_out_and_named(tmp_path: Path) -> None:
    folder = Synthetic(ks=(16,), seeds=(1,)).write(tmp_path / "run")
    for name in ("eval", "layers"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    found = read_run_files(folder)
    assert found.documents == {}
    assert not any(found.training.values())
    assert any("leads out of the run's folder" in problem for problem in found.problems)


@pytest.mark.parametrize("row", ["{}", '{"a": [[], [], []]}'])
def test_log_of_endless_rows_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    folder = Synthetic(ks=(16,), seeds=(1,)).write(tmp_path / "run")
    monkeypatch.setattr(reading, "_MOST_LINES", 100)
    for rows, kept in ((40, 40), (101, 0)):
        (folder / "metrics.jsonl").write_text(f"{row}\n" * rows)
        found = read_run_files(folder)
        assert len(found.metrics) == kept
    assert any("more than 100 rows" in problem for problem in found.problems)
