import os

import pytest
from tests.cli._parts import contents, small

from mxd.training import Student


@pytest.fixture
def fit_arguments(saved, text):
    return lambda **flags: ["fit", saved("gpt2"), *small(text=text, **flags)]


@pytest.mark.parametrize("overwrite", [None, True], ids=["kept", "overwrite"])
def test_folder_with_other_things_is_never_replaced(cli, fit_arguments, tmp_path, overwrite):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"dear")
    arguments = fit_arguments(out=tmp_path / "photos", overwrite=overwrite)
    told = "is not the folder of a run" if overwrite else "--overwrite"
    cli.refuses(arguments, tmp_path / "photos", told, "choose another")


def test_earlier_run_is_replaced_only_when_asked(cli, fit_arguments, tmp_path):
    out = tmp_path / "run"
    cli.succeeds(*fit_arguments(out=out))
    cli.refuses(fit_arguments(out=out, k=2), out, "exists", "--overwrite")
    cli.succeeds(*fit_arguments(out=out, k=2, overwrite=True))
    assert [path.name for path in out.glob("layers/*/*")] == ["mxd-k2-w24-s42"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_failing_run_leaves_the_earlier_one(cli, fit_arguments, tmp_path, monkeypatch):
    out = tmp_path / "run"
    cli.succeeds(*fit_arguments(out=out))
    before = contents(tmp_path)
    monkeypatch.setattr(Student, "step", lambda *_: 1 / 0)
    assert cli(*fit_arguments(out=out, overwrite=True)).code == 1
    assert contents(tmp_path) == before


def test_failing_run_leaves_no_folder_above_it(cli, fit_arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(Student, "step", lambda *_: 1 / 0)
    assert cli(*fit_arguments(out=tmp_path / "a" / "b" / "run")).code == 1
    assert contents(tmp_path) == {}


def test_file_in_the_place_of_the_output_is_refused(cli, fit_arguments, tmp_path):
    (tmp_path / "file").write_text("dear", encoding="utf-8")
    cli.refuses(fit_arguments(out="file"), "file", "expected the name of a folder")
    cli.refuses(fit_arguments(out="file/run"), "file/run", "choose another")


@pytest.mark.parametrize("where", ["/proc/nowhere/run", "/sys/run"])
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder nobody may write to")  # noqa: PTH112
def test_unwritable_place_is_refused(cli, fit_arguments, where):
    cli.refuses(fit_arguments(out=where), where, "choose another")


def test_unwritable_place_is_refused_before_the_model_is_loaded(cli, fit_arguments, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("mxd.cli._train.load_model", None)
    cli.refuses(fit_arguments(out="run"), "run", "choose another")


@pytest.mark.parametrize("verb", ["fit", "eval", "demo"])
def test_json_into_a_folder_that_is_absent_is_refused(cli, fit_arguments, trained, verb):
    arguments = {"fit": fit_arguments(), "eval": ["eval", trained], "demo": ["demo"]}[verb]
    cli.refuses([*arguments, "--json", "no/such/x.json"], "no/such/x.json", "make no/such")


def test_json_in_the_place_of_a_folder_is_refused(cli, fit_arguments, tmp_path):
    cli.refuses(fit_arguments(json=tmp_path), tmp_path, "expected the name of a file")


def test_full_disk_is_no_defect(cli, fit_arguments, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(Student, "step", full)
    cli.refuses(fit_arguments(out=tmp_path / "run"), "metrics.jsonl", "No space left on device")
