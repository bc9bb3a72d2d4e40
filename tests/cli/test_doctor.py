"""`mxd doctor`: one glance says what is wrong."""

import json
import shutil

import pytest
import torch
from tests.cli._parts import read_json

import mxd

STUDENT = "mxd-k3-w24-s42"
FEW = ["--tokens", "600"]


@pytest.fixture
def run_folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def disguise(run_folder):
    """Make the MxD a layer with one expert that is on for every token."""
    path = run_folder / "layers" / "transformer.h.1.mlp" / STUDENT
    layer = mxd.load(path)
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.bias.fill_(-1)
        layer.gate.bias[3] = 1
    layer.statistics.clear()
    layer.save_pretrained(path)


def test_dense_mlp_in_disguise_is_visible_at_one_glance(cli, run_folder, tmp_path):
    disguise(run_folder)
    result = cli.succeeds("doctor", run_folder, *FEW, "--json", tmp_path / "doctor.json")
    document = read_json(tmp_path / "doctor.json")
    assert read_json(run_folder / "eval" / "doctor.json") == document
    assert document["kind"] == "doctor"
    assert document["figures"].startswith("measured")
    first, _ = document["layers"]
    assert (first["name"], first["healthy"]) == (STUDENT, False)
    found = {one["signature"] for one in first["findings"]}
    assert {"always_on_expert", "gate_explains_nothing", "dead_experts"} <= found
    verdict = next(line for line in result.out.splitlines() if line.startswith(STUDENT))
    assert "always on expert" in verdict
    assert "on at 100% of tokens" in result.out
    assert "dense MLP in disguise" in " ".join(result.out.split())
    assert "→" in result.out
    assert not (run_folder / "eval" / "held-out.json").exists()


def test_stored_figures_are_used_where_they_are_whole(cli, run_folder, monkeypatch):
    cli.succeeds("eval", run_folder, *FEW)
    disguise(run_folder)
    with monkeypatch.context() as patch:
        patch.setattr("mxd.cli.doctor.open_with_model", None)
        cli.succeeds("doctor", run_folder)
    stored = read_json(run_folder / "eval" / "doctor.json")
    assert stored["figures"] == "eval/held-out.json"
    cli.succeeds("doctor", run_folder, *FEW, "--anew")
    anew = read_json(run_folder / "eval" / "doctor.json")
    assert anew["figures"].startswith("measured")
    assert anew["layers"] != stored["layers"]


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"layers": 3}', '{"tokens": 1, "layers": [{"site": "x"}]}']
)
def test_damaged_figures_are_measured_again(cli, run_folder, content):
    (run_folder / "eval").mkdir()
    (run_folder / "eval" / "held-out.json").write_text(content, encoding="utf-8")
    cli.succeeds("doctor", run_folder, *FEW)
    document = read_json(run_folder / "eval" / "doctor.json")
    assert document["figures"].startswith("measured")


@pytest.mark.parametrize("changes", [{"text": None}, {"text": 3}, {"tokens": True}])
def test_figures_that_do_not_say_what_of_are_measured_again(cli, run_folder, changes):
    cli.succeeds("eval", run_folder, *FEW)
    path = run_folder / "eval" / "held-out.json"
    document = {**read_json(path), **changes}
    kept = {key: value for key, value in document.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
    cli.succeeds("doctor", run_folder, *FEW)
    assert read_json(run_folder / "eval" / "doctor.json")["figures"].startswith("measured")


def test_diverged_layer_does_not_stop_the_doctor(cli, run_folder):
    path = run_folder / "layers" / "transformer.h.1.mlp" / STUDENT
    layer = mxd.load(path)
    layer.provenance.training["diverged"] = True
    layer.save_pretrained(path)
    result = cli.succeeds("doctor", run_folder, *FEW)
    assert f"{STUDENT}: diverged" in result.out


def test_bad_input_is_refused(cli, trained, tmp_path):
    cli.refuses(["doctor", tmp_path / "nothing"], "no run")
    cli.refuses(["doctor", trained, "--tokens", "none"], "tokens")
    cli.refuses(["doctor", trained, "--json", "no/such/x.json"], "make no/such")
