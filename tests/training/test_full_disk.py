"""Runs whose disk becomes full: a clean end, and what is finished stays."""

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.helpers.disks import largest_file
from tests.training._parts import SITE, rows_of, tiny_recipe

from mxd.errors import CannotWriteError
from mxd.layers import load, storage
from mxd.training import fit, open_run, student_folder
from mxd.training.board import Board
from mxd.training.metrics_log import MetricsLog

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
STUDENTS = ("mxd-k3-w24-s42", "transcoder-k3-w24-s42")


def row(step: int) -> dict[str, Any]:
    return {"step": step, "site": "s", "student": "t", "nmse": 1.0 / step, "none": None}


def test_metrics_end_with_a_whole_row(tmp_path: Path) -> None:
    def rows() -> None:
        for step in range(1, 100):
            log.row(row(step))

    with MetricsLog(tmp_path) as log:
        with largest_file(500), pytest.raises(CannotWriteError, match=r"metrics\.jsonl cannot be"):
            rows()
        content = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
        assert content.endswith("}\n")
        steps = [json.loads(line)["step"] for line in content.splitlines()]
        assert steps == list(range(1, len(steps) + 1))
        log.row(row(len(steps) + 1))  # there is room again
    assert [found["step"] for found in rows_of(tmp_path)] == [*steps, len(steps) + 1]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 4):
            log.row(row(step))
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert found.Tags()["scalars"] == ["s/t/nmse"]
    scalars = found.Scalars("s/t/nmse")
    assert [(scalar.step, scalar.value) for scalar in scalars] == [(1, 1.0), (2, 0.5), (4, 0.25)]


def test_full_disk_reaches_the_writer_for_tensorboard_at_once(tmp_path: Path) -> None:
    def rows() -> None:
        for step in range(100):
            board.log({"a": float(step)}, step)

    board = Board(tmp_path)
    with largest_file(300), pytest.raises(OSError):
        rows()
    board.finish()
    steps = [found.step for found in EventAccumulator(str(tmp_path)).Reload().Scalars("a")]
    assert steps == list(range(len(steps))) != []


def test_tensorboard_that_fails_is_named_once_and_training_ends_as_ever(
    model, tokenizer, documents, tmp_path: Path, monkeypatch, caplog
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FULL

    monkeypatch.setattr(Board, "log", fail)
    with caplog.at_level(logging.WARNING):
        run = fit(model, tokenizer, tiny_recipe("mxd"), documents=documents, out=tmp_path / "run")
    assert run.record["complete"] is True
    assert [found["step"] for found in rows_of(tmp_path / "run")] == [4, 8, 12]
    assert caplog.text.count("tensorboard gets no more metrics") == 1


def test_run_that_cannot_write_its_metrics_stops_and_keeps_its_layers(
    model, tokenizer, documents, tmp_path: Path, monkeypatch
) -> None:
    write = MetricsLog.row

    def failing(log: MetricsLog, values: dict[str, Any]) -> None:
        if values["step"] == 8:
            raise CannotWriteError("metrics.jsonl cannot be written (No space left on device)")
        write(log, values)

    monkeypatch.setattr(MetricsLog, "row", failing)
    out = tmp_path / "run"
    with pytest.raises(CannotWriteError, match=rf"metrics\.jsonl .*finished before is in {out}"):
        fit(model, tokenizer, tiny_recipe("mxd"), documents=documents, out=out)
    found = open_run(out)
    assert found.record["complete"] is False
    assert found.layers[SITE][STUDENTS[0]].provenance.training["steps"] == 8


def full_after(files: int, monkeypatch) -> None:
    """The disk takes so many files of weights, and the beginning of the next."""
    save, saved = storage.save_file, []

    def saving(tensors: dict[str, torch.Tensor], path: Path, *rest: Any) -> None:
        if len(saved) == files:
            Path(path).write_bytes(b"the beginning")
            raise FULL
        saved.append(path)
        save(tensors, path, *rest)

    monkeypatch.setattr(storage, "save_file", saving)


def test_layers_that_were_finished_stay_when_the_disk_becomes_full(
    model, tokenizer, documents, tmp_path: Path, monkeypatch
) -> None:
    full_after(2, monkeypatch)  # weights and statistics of the first
    out = tmp_path / "run"
    with pytest.raises(CannotWriteError, match="No space left on device") as caught:
        fit(
            model, tokenizer, tiny_recipe("mxd", "transcoder"), documents=documents, out=out
        )  # fmt: skip
    assert f"{STUDENTS[1]}/model.safetensors cannot be written" in str(caught.value)
    assert load(student_folder(out, SITE, STUDENTS[0])).config.architecture == "mxd"
    left = [path.name for path in student_folder(out, SITE, STUDENTS[1]).glob("*")]
    assert left == []
    assert not list(out.rglob(".*.new"))


def test_full_disk_before_the_first_layer_leaves_nothing_and_the_earlier_run(
    model, tokenizer, documents, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "run"
    fit(model, tokenizer, tiny_recipe("mxd"), documents=documents, out=out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    full_after(0, monkeypatch)
    for overwritten in (out, tmp_path / "new"):
        with pytest.raises(CannotWriteError, match="No space left on device"):
            fit(
                model, tokenizer, tiny_recipe("mxd"), documents=documents, out=overwritten,
                overwrite=True,
            )  # fmt: skip
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
