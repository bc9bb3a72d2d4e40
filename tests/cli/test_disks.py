"""What a user sees of full and read-only disks: one sentence, and whole files alone."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from tests.cli._parts import contents, small
from tests.helpers.disks import not_allowed, onto_a_full_disk

from mxd import _durable_files
from mxd.cli.main import run
from mxd.errors import CannotWriteError
from mxd.evaluation.judging.cache import Answered, VerdictCache

NUMBERS = ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO"]


@pytest.fixture
def run_folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def failing_disk(monkeypatch):
    """The disk fails when a file whose name ends so is to be kept."""

    def fail(ending: str, number: int = errno.ENOSPC) -> None:
        replace = _durable_files._replace

        def failing(path, save, *rest, **options):
            def half(place):
                save(place)
                raise OSError(number, os.strerror(number))

            replace(path, half if path.name.endswith(ending) else save, *rest, **options)

        monkeypatch.setattr(_durable_files, "_replace", failing)

    return fail


def complains(cli, arguments, *named):
    """One sentence and exit code 2; unlike a refusal, what was finished stays."""
    result = cli(*arguments)
    assert result.code == 2, result.err
    (line,) = result.err.strip().splitlines()
    assert line.startswith("mxd: ")
    for name in named:
        assert str(name) in line
    assert not [path for path in cli.folder.rglob(".*") if path.name.endswith(".new")]
    return result.out


@pytest.mark.parametrize("name", NUMBERS)
def test_evaluation_that_cannot_be_kept_is_shown_and_leaves_the_run_as_it_was(
    cli, run_folder, failing_disk, name
):
    number = getattr(errno, name)
    failing_disk("held-out.json", number)
    arguments = ["eval", run_folder, "--tokens", 200]
    before = contents(run_folder)
    shown = complains(cli, arguments, "held-out.json cannot be written", os.strerror(number))
    assert "Cross-entropy of the base model" in shown
    (run_folder / "eval").rmdir()
    assert contents(run_folder) == before


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("evaluated") / "run")
    assert run(["eval", str(folder), "--tokens", "200"]) == 0
    return folder


@pytest.mark.parametrize("ending", [".png", "report.html"])
def test_report_that_cannot_be_written_leaves_whole_files_alone(
    cli, evaluated, tmp_path, failing_disk, ending
):
    run_folder = shutil.copytree(evaluated, tmp_path / "run")
    failing_disk(ending)
    complains(cli, ["report", run_folder, "--out", "there"], ending, "No space left on device")
    for path in Path("there").rglob("*"):
        assert not path.name.endswith(ending)


def test_json_that_cannot_be_written_says_so_and_the_run_stays(cli, saved, text, failing_disk):
    failing_disk("x.json")
    flags = small(text=text, out="run")
    complains(
        cli, ["fit", saved("gpt2"), *flags, "--json", "x.json"],
        "x.json cannot be written (No space left on device)", "is there already",
    )  # fmt: skip
    assert not Path("x.json").exists()
    assert cli.succeeds("top", "run", "--tokens", 200)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_json_onto_a_device_writes_to_the_device(cli, run_folder):
    complains(cli, ["doctor", run_folder, "--json", "/dev/full"], "/dev/full", "No space left")
    assert Path("/dev/full").is_char_device()


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_json_into_a_pipe_is_read_at_its_other_end(cli, run_folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    cli.succeeds("top", run_folder, "--tokens", 200, "--count", 1, "--json", tmp_path / "pipe")
    assert json.loads(os.read(reader, 1 << 20))
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_report_into_a_folder_without_permission_is_refused(cli, run_folder, tmp_path):
    (tmp_path / "there").mkdir()
    with not_allowed(tmp_path / "there"):
        result = cli("report", run_folder, "--out", tmp_path / "there" / "report")
    assert result.code == 2, result.err
    assert result.err.count("\n") == 1
    assert list((tmp_path / "there").iterdir()) == []


def test_answers_of_a_judge_that_cannot_be_kept_say_so(tmp_path):
    cache = VerdictCache(tmp_path / "cache.jsonl")
    cache.put("a", Answered(0.5, 0.5, 1, 10, 5), judge="j")
    (tmp_path / "cache.jsonl").rename(tmp_path / "kept.jsonl")
    (tmp_path / "cache.jsonl").mkdir()
    with pytest.raises(CannotWriteError, match=r"cache\.jsonl .* answers before are kept: make"):
        cache.put("b", Answered(0.5, 0.5, 1, 10, 5), judge="j")
    assert len(VerdictCache(tmp_path / "kept.jsonl")) == 1


def test_full_disk_is_what_the_system_calls_it(tmp_path):
    with pytest.raises(OSError, match="No space left on device"):
        onto_a_full_disk(tmp_path / "x")


def test_damaged_text_is_left_out_when_asked(cli, saved, text, tmp_path, caplog):
    folder = tmp_path / "text"
    folder.mkdir()
    shutil.copy(text, folder / "a.jsonl.gz")
    (folder / "b.jsonl.gz").write_bytes(text.read_bytes()[:300])
    arguments = ["fit", saved("gpt2"), *small(text=folder, out=tmp_path / "run")]
    cli.refuses(arguments, "b.jsonl.gz", "--skip-damaged")
    caplog.clear()
    cli.succeeds(*arguments, "--skip-damaged")
    named, counted = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert "b.jsonl.gz" in named
    assert "0 damaged records and the rest of 1 damaged files" in counted
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert recipe["text"]["options"]["skip_damaged"] is True
