import pytest
from tests.cli._parts import contents, read_json, small

import mxd
from mxd.training import Student


@pytest.fixture
def interrupted_step(monkeypatch):
    """Ctrl-C in the fifth step of training."""
    step, calls = Student.step, []

    def stop_at_the_fifth(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        step(*arguments)

    monkeypatch.setattr(Student, "step", stop_at_the_fifth)


def test_interrupted_training_keeps_the_layers(cli, saved, text, tmp_path, interrupted_step):
    out = tmp_path / "run"
    result = cli("fit", saved("gpt2"), *small(text=text, out=out))
    assert result.code == 130
    assert "Traceback" not in result.err
    (line,) = result.err.strip().splitlines()
    assert line.startswith("mxd: interrupted")
    assert f"mxd eval {out}" in line
    assert "--overwrite" in line
    layer = mxd.load(out / "layers" / "transformer.h.1.mlp" / "mxd-k3-w24-s42")
    assert layer.provenance.training["steps"] == 4
    assert read_json(out / "run.json")["complete"] is False
    cli.succeeds("eval", out, "--tokens", 200)
    assert "interrupted" in (out / "report.html").read_text(encoding="utf-8")


def test_interruption_before_training_leaves_nothing(cli, saved, text, tmp_path, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mxd.cli._train.load_model", interrupt)
    result = cli("fit", saved("gpt2"), *small(text=text, out=tmp_path / "a" / "run"))
    assert result.code == 130
    assert result.err.strip() == "mxd: interrupted; nothing is kept"
    assert contents(tmp_path) == {}


def test_defect_is_told_from_bad_input(cli, saved, text, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("unthinkable")

    monkeypatch.setattr(Student, "step", fail)
    result = cli("fit", saved("gpt2"), *small(text=text, out=tmp_path / "a" / "run"))
    assert result.code == 1
    assert "Traceback" in result.err
    assert "RuntimeError: unthinkable" in result.err
    assert result.err.splitlines()[-1].startswith("mxd: this is a defect of mxd")
    assert contents(tmp_path) == {}
