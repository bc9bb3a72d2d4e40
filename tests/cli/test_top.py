"""`mxd top`: contexts of experts, and what it refuses."""

import json
import shutil

import pytest
import torch
from tests.cli._parts import read_json, small

import mxd

FEW = ["--tokens", "600"]
STUDENT = "mxd-k3-w24-s42"


@pytest.fixture
def with_a_dead_expert(trained, tmp_path):
    """The run with expert 5 of its MxD never on, and expert 2 always."""
    folder = shutil.copytree(trained, tmp_path / "run")
    path = folder / "layers" / "transformer.h.1.mlp" / STUDENT
    layer = mxd.load(path)
    with torch.no_grad():
        layer.gate.weight[[2, 5]] = 0
        layer.gate.bias[5], layer.gate.bias[2] = -1, 100
    layer.save_pretrained(path)
    return folder


def test_expert_is_shown_in_its_contexts(cli, with_a_dead_expert, tmp_path):
    flags = ["--expert", "2", "--count", "3", "--json", tmp_path / "top.json"]
    result = cli.succeeds("top", with_a_dead_expert, *FEW, *flags)
    document = read_json(tmp_path / "top.json")
    assert (document["kind"], document["name"]) == ("top", STUDENT)
    (unit,) = document["units"]
    assert (unit["unit"], unit["frequency"], unit["dead"]) == (2, 1.0, False)
    assert len(unit["examples"]) == 3
    assert document["specialisation"]["always_on"] == [2]
    assert "Expert 2" in result.out
    for example in unit["examples"]:
        assert f"⟦{example['token']}⟧" in result.out


def test_dead_expert_is_said_to_be_dead(cli, with_a_dead_expert, tmp_path):
    flags = ["--expert", "5,2", "--expert", "5", "--json", tmp_path / "top.json"]
    result = cli.succeeds("top", with_a_dead_expert, *FEW, *flags)
    assert "Expert 5 of mxd-k3-w24-s42 is dead" in result.out
    units = read_json(tmp_path / "top.json")["units"]
    assert [(unit["unit"], unit["dead"]) for unit in units] == [(5, True), (2, False)]


def test_without_an_expert_usage_is_summed_up(cli, with_a_dead_expert, tmp_path):
    result = cli.succeeds("top", with_a_dead_expert, *FEW, "--json", tmp_path / "top.json")
    usage = read_json(tmp_path / "top.json")["specialisation"]
    shown = " ".join(result.out.split())
    assert f"24 units, {usage['dead']} dead" in shown
    assert "1 on more than 90 %" in shown
    assert "█" in result.out


def test_another_layer_and_another_text(cli, trained, text, tmp_path):
    flags = ["--student", "transcoder", "--expert", "0", "--text", text]
    cli.succeeds("top", trained, *FEW, *flags, "--json", tmp_path / "top.json")
    assert read_json(tmp_path / "top.json")["name"] == "transcoder-k3-w24-s42"


def test_bad_input_is_refused(cli, trained, saved, text, tmp_path):
    cli.refuses(["top", trained, "--expert", "24"], "24", "0 to 23", STUDENT)
    cli.refuses(["top", trained, "--expert", "-1"], "-1", "0 to 23")
    cli.refuses(["top", trained, "--expert", "one"], "'one'", "whole numbers")
    cli.refuses(["top", trained, "--student", "molt"], "'molt'", "transcoder")
    cli.refuses(["top", trained, "--text", "absent.jsonl"], "absent.jsonl")
    cli.refuses(["top", tmp_path / "nothing"], "no run")
    dense = tmp_path / "dense"
    cli.succeeds("fit", saved("gpt2"), *small(text=text, arch="dense_mlp", out=dense))
    cli.refuses(["top", dense], "without units", "experts or latents")


def test_hostile_names_in_a_run_do_nothing_on_the_terminal(cli, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    name = "mxd[red]\x1b[2J\nmxd: done"
    site = folder / "layers" / "transformer.h.1.mlp"
    (site / STUDENT).rename(site / name)
    record = read_json(folder / "run.json")
    record["students"][0]["name"] = name
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    shown = [
        cli.succeeds("top", folder, *FEW, "--expert", ",".join(map(str, range(24)))),
        cli.succeeds("top", folder, *FEW),
        cli.succeeds("doctor", folder, *FEW),
        cli.succeeds("eval", folder, *FEW, "--rank-experts", "2"),
    ]
    for result in shown:
        assert "\x1b" not in result.out + result.err
        assert "mxd: done" not in result.out.splitlines()
    for result in shown[:3]:
        assert "mxd[red]\N{REPLACEMENT CHARACTER}[2J↵mxd: done" in result.out
    refused = cli("top", folder, "--student", "none")
    assert refused.code == 2
    assert "\x1b" not in refused.err
