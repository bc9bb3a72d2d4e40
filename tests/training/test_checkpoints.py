"""Checkpoints that cannot be read or written, and metrics that a checkpoint relies on."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch
from tests.training._parts import make_student, tiny_recipe
from tests.training.test_resume import EVERY, died_at, weights

from mxd.training import CheckpointOptions, fit, loop
from mxd.training.checkpoints import CheckpointWriter, Part, folder, joining, saved_steps, writer
from mxd.training.checkpoints.folder import read_checkpoint
from mxd.training.metrics_log import MetricsLog

LEFT = ".step-00000005.left"


@pytest.fixture(scope="module")
def saved(model, tokenizer, documents, tmp_path_factory) -> Path:
    """A finished run of which steps 4 to 6 are saved."""
    out = tmp_path_factory.mktemp("saved") / "run"
    recipe = tiny_recipe(tokens=6 * 64)
    fit(model, tokenizer, recipe, documents=documents, out=out, checkpoints=EVERY)
    return out


def unreadable(out, monkeypatch):
    compare = folder.sha256_of

    def fails(path):
        if "step-00000005" in str(path):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return compare(path)

    monkeypatch.setattr(folder, "sha256_of", fails)


def unopened(out, monkeypatch):
    load = loop.load_student

    def fails(student, entry, checkpoint):
        if checkpoint.step == 5:
            raise OSError(errno.ESTALE, "Stale file handle")
        load(student, entry, checkpoint)

    monkeypatch.setattr(loop, "load_student", fails)


def of_another_version(out, monkeypatch):
    path = out / "checkpoints" / "step-00000005" / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))


@pytest.mark.parametrize("spoil", [unreadable, unopened, of_another_version])
def test_checkpoint_that_cannot_be_used_is_put_aside(
    spoil, saved, model, tokenizer, documents, tmp_path, caplog, monkeypatch
):
    out = died_at(saved, 5, tmp_path / "run")
    (out / "checkpoints" / LEFT).mkdir()  # of an earlier attempt, which gives way
    spoil(out, monkeypatch)
    held = sorted(path.name for path in (out / "checkpoints" / "step-00000005").iterdir())
    there = []
    fit(
        model, tokenizer, tiny_recipe(tokens=6 * 64), documents=documents, out=out, resume=True,
        on_progress=lambda _: there.append(sorted(
            path.name for path in (out / "checkpoints" / LEFT).iterdir())
        ),
    )  # fmt: skip
    assert "step-00000005 is left out" in caplog.text
    assert "resumed from step 4" in caplog.text
    assert f"is put aside as {LEFT}" in caplog.text
    assert there[0] == held  # nothing of it was lost while it could still be wanted
    assert weights(out) == weights(saved)
    assert not (out / "checkpoints" / LEFT).exists()  # the run is finished


def test_out_of_memory_is_no_fault_of_a_checkpoint(
    saved, model, tokenizer, documents, tmp_path, monkeypatch
):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    out = died_at(saved, 5, tmp_path / "run")
    monkeypatch.setattr(loop, "load_student", fails)
    with pytest.raises(torch.OutOfMemoryError):
        fit(model, tokenizer, tiny_recipe(tokens=6 * 64), documents=documents, out=out, resume=True)
    assert saved_steps(out)[0] == 5


@pytest.mark.parametrize("value", ["long" * 1000, math.nan])
def test_record_that_could_not_be_read_again_is_not_written(tmp_path, monkeypatch, caplog, value):
    monkeypatch.setattr(writer, "MAX_JSON_BYTES", 3000)
    checkpoints = CheckpointWriter(tmp_path, keep=2)
    for step, one in ((1, "short"), (2, value)):
        checkpoints.save(step, Part({"one": one}, {"stream-0.safetensors": {"a": torch.ones(3)}}))
        checkpoints.wait()
    assert checkpoints.failure
    assert "step 2 could not be written" in caplog.text
    assert saved_steps(tmp_path) == [1]
    assert read_checkpoint(tmp_path / "checkpoints" / "step-00000001").content["one"] == "short"


def test_history_is_kept_beside_json_and_to_the_bit():
    student, other = make_student(), make_student(seed=1)
    student.nmse_history = [0.1 + 0.2, math.nan, 1e-300]
    plain, tensors = student.state()
    assert len(json.dumps(plain)) < 200
    other.load_state(plain, tensors)
    assert repr(other.nmse_history) == repr(student.nmse_history)
    for wrong in (torch.zeros(2), torch.zeros(2, 2, dtype=torch.float64)):
        with pytest.raises(ValueError, match="history"):
            other.load_state(plain, {**tensors, "history.nmse": wrong})


def test_memory_that_ran_out_is_remembered_and_micro_tokens_are_the_recipes():
    halved = make_student()
    halved._micro.halve_to(8)
    for state, own, expected in (
        (make_student().state(), 16, 16),
        (make_student(micro_tokens=16).state(), None, None),
        (halved.state(), None, 8),
        (halved.state(), 16, 8),
        (halved.state(), 4, 4),
    ):
        student = make_student(micro_tokens=own)
        student.load_state(*state)
        assert student._micro.tokens == expected


def test_metrics_are_on_the_disk_before_a_checkpoint_counts_on_them(
    model, tokenizer, documents, tmp_path, monkeypatch
):
    synced, sync = [], os.fsync

    def spy(handle):
        found = os.fstat(handle)
        synced.append((found.st_ino, found.st_size))
        sync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    recipe, every = tiny_recipe(tokens=256, log_every=1), CheckpointOptions(every_steps=2)
    out = tmp_path / "run"
    fit(model, tokenizer, recipe, documents=documents, out=out, checkpoints=every)
    number = (out / "metrics.jsonl").stat().st_ino
    for step in (2, 4):
        found = read_checkpoint(out / "checkpoints" / f"step-{step:08d}")
        assert (number, found.content["metrics_bytes"]) in synced


def test_rows_that_are_missing_are_told_of_and_none_is_left_in_part(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": i, "x": "y" * i}) + "\n" for i in (3, 70_000, 5)]
    raw = "".join(lines).encode()
    first, second = len(lines[0]), len(lines[0]) + len(lines[1])
    for there, size, left in (
        (len(raw), second, second), (len(raw), len(raw), len(raw)), (len(raw), second + 4, second),
        (second - 1, len(raw), first), (second, len(raw), second), (first - 2, second, 0),
        (0, second, 0),
    ):  # fmt: skip
        path.write_bytes(raw[:there])
        caplog.clear()
        with MetricsLog(tmp_path, goes_on=True) as log:
            log.rewind(size, 2)
            log.row({"step": 9, "site": "s", "student": "a"})
        found = path.read_bytes()
        assert found.startswith(raw[:left])
        assert json.loads(found[left:])["step"] == 9
        assert ("are missing" in caplog.text) == (left < size)


def test_a_joint_checkpoint_that_fails_leaves_no_folder_for_long(tmp_path):
    first, second = (CheckpointWriter(tmp_path, keep=9, rank=rank, ranks=2) for rank in (0, 1))
    part = Part({"students": [], "streams": []}, {})
    second.save(2, part)  # the first one has given this checkpoint up, or never began it
    second.wait()
    assert second.failure is None
    second.save(4, part)  # whoever comes first
    second.wait()
    first.save(4, part)
    first.wait()
    assert (first.failure, second.failure) == (None, None)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_nothing_is_left_to_do_for_who_has_told(tmp_path, monkeypatch):
    """The first process may rename the folder as soon as all others have told."""
    rename = Path.replace

    def seal_at_once(self: Path, target: Path) -> Path:
        found = rename(self, target)
        if Path(target).name == "process-1.json":
            self.parent.rename(tmp_path / "sealed")
        return found

    monkeypatch.setattr(Path, "replace", seal_at_once)
    second = CheckpointWriter(tmp_path, keep=9, rank=1, ranks=2)
    second.save(2, Part({"students": [], "streams": []}, {}))
    second.wait()
    assert second.failure is None
    assert (tmp_path / "sealed" / "process-1.json").is_file()


def test_who_could_not_begin_says_so_at_once(tmp_path, monkeypatch):
    """Waiting for the first process would keep it from noticing that this one is gone."""

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Part, "copied", fail)
    second = CheckpointWriter(tmp_path, keep=9, rank=1, ranks=2)
    second.save(2, Part({"students": [], "streams": []}, {}))
    assert second.failure == "no room"
    told = tmp_path / "checkpoints" / ".step-00000002.new" / "process-1.json"
    assert "no room" in told.read_text()


def test_who_said_nothing_is_not_waited_for_once_all_have_told(tmp_path, monkeypatch):
    """One whose disk was too full to say so, too."""
    monkeypatch.setattr(joining, "SEEN_SECONDS", 0.1)
    first = CheckpointWriter(tmp_path, keep=9, rank=0, ranks=2)
    first.save(2, Part({"students": [], "streams": []}, {}))
    first.all_have_told()
    first.wait()
    assert first.failure == "process 1 did not write its part"
    assert not saved_steps(tmp_path)
