import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.cli._parts import save_tokenizer

FEW = ("--tokens", "200")


@pytest.fixture
def run_folder(trained, tmp_path) -> Path:
    """A copy of a run, to damage."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def layer_folder(run_folder) -> Path:
    return next(run_folder.glob("layers/*/mxd-*"))


def _change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")


@pytest.mark.parametrize("size", [0, 10, -20], ids=["nothing", "its start", "not its end"])
@pytest.mark.parametrize("name", ["model.safetensors", "statistics.safetensors", "config.json"])
def test_truncated_layer_file_is_refused(cli, run_folder, layer_folder, name, size):
    path = layer_folder / name
    path.write_bytes(path.read_bytes()[:size])
    cli.refuses(["eval", run_folder], path, "damaged", "expected", "again")


def _without_modulators(path: Path) -> None:
    save_file({k: v for k, v in load_file(path).items() if k != "modulators"}, path)


def _narrow_modulators(path: Path) -> None:
    save_file({**load_file(path), "modulators": torch.zeros(2, 2)}, path)


def _with_integers(path: Path) -> None:
    save_file({**load_file(path), "bias": torch.zeros(32, dtype=torch.int64)}, path)


def _pickle(path: Path) -> None:
    torch.save({"bias": torch.zeros(2)}, path)


_FAULTS: list[tuple[Callable[[Path], object], list[str]]] = [
    (_without_modulators, ["missing tensors ['modulators']"]),
    (_narrow_modulators, ["modulators has shape (2, 2), expected (24, 32)"]),
    (_with_integers, ["int64", "float32"]),
    (_pickle, ["is a pickle", "safetensors"]),
    (lambda path: path.rename(path.with_name("model.pt")), ["model.pt is a pickle"]),
    (lambda path: path.unlink(), ["has no model.safetensors"]),
    (lambda path: shutil.rmtree(path.parent), ["lacks the folder"]),
]


@pytest.mark.parametrize(("fault", "named"), _FAULTS, ids=[named[0] for _, named in _FAULTS])
def test_faulty_weights_are_refused(cli, run_folder, layer_folder, fault, named):
    fault(layer_folder / "model.safetensors")
    cli.refuses(["eval", run_folder], layer_folder, *named)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"format_version": 2}, ["format version 2, expected 1", "update mxd"]),
        ({"format": "lora"}, ["'lora'", "expected 'mxd-layer'"]),
        ({"architecture": "moe"}, ["'moe'", "skip_transcoder"]),
        ({"k": 0}, ["k=0"]),
        ({"d_in": 16}, ["shape (128, 32), expected (128, 16)"]),
        ({"activation": "gleu"}, ["'gleu'"]),
    ],
    ids=["version", "format", "architecture", "k", "width", "activation"],
)
def test_faulty_layer_configuration_is_refused(cli, run_folder, layer_folder, values, named):
    _change(layer_folder / "config.json", **values)
    cli.refuses(["eval", run_folder], layer_folder, *named)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"format_version": 9}, ["format version 9, expected 1", "update mxd"]),
        ({"format": "other"}, ["not the record of a run", "'mxd-run'"]),
        ({"students": []}, ["no layers"]),
        ({"students": [{"site": "../..", "name": "x"}]}, ["outside its folder"]),
        ({"recipe": {}}, ["does not hold a Recipe"]),
        ({"base_model": None}, ["does not say its base model", "--model"]),
        ({"base_model": {"name": "/gone/model"}}, ["'/gone/model'", "--model"]),
        ({"base_model": {"name": "gone/model"}}, ["'gone/model'", "--model"]),
    ],
    ids=["version", "format", "empty", "outside", "recipe", "nameless", "gone", "unreachable"],
)
def test_faulty_run_is_refused(cli, run_folder, values, named):
    _change(run_folder / "run.json", **values)
    cli.refuses(["eval", run_folder], "run", *named)


@pytest.mark.parametrize("what", ["absent", "empty folder", "model", "file", "half a record"])
def test_what_is_no_run_is_refused(cli, saved, run_folder, tmp_path, what):
    (tmp_path / "empty").mkdir()
    places = {
        "absent": tmp_path / "nowhere",
        "empty folder": tmp_path / "empty",
        "model": saved("gpt2"),
        "file": run_folder / "run.json",
        "half a record": run_folder,
    }
    if what == "half a record":
        record = run_folder / "run.json"
        record.write_bytes(record.read_bytes()[:100])
    cli.refuses(["eval", places[what]], places[what], "run.json", "expected")


def test_model_of_another_width_is_refused(cli, run_folder, tmp_path):
    config = transformers.GPT2Config(
        n_embd=16, n_layer=3, n_head=4, n_positions=64, vocab_size=64, bos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "narrow")
    save_tokenizer(tmp_path / "narrow")
    arguments = ["eval", run_folder, "--model", tmp_path / "narrow"]
    cli.refuses(arguments, "d_in 32", "transformer.h.1.mlp", "expected d_in 16")


def test_model_without_the_site_is_refused(cli, saved, run_folder):
    cli.refuses(["eval", run_folder, "--model", saved("llama")], "'transformer.h.1.mlp'")


def test_other_weights_of_equal_shape_give_one_warning(cli, saved, run_folder):
    result = cli.succeeds("eval", run_folder, "--model", saved("gpt2-1"), *FEW)
    lines = result.err.splitlines()
    assert len(lines) == 2, result.err  # one for each class of layer
    for line in lines:
        assert line.startswith("mxd: ")
        assert str(saved("gpt2")) in line
        assert str(saved("gpt2-1")) in line


def test_the_same_weights_elsewhere_give_no_warning(cli, saved, run_folder, tmp_path):
    moved = shutil.copytree(saved("gpt2"), tmp_path / "moved")
    _change(run_folder / "run.json", base_model={"name": str(tmp_path / "gone")})
    assert cli.succeeds("eval", run_folder, "--model", moved, *FEW).err == ""


def test_damaged_metrics_cost_no_more_than_their_line(cli, run_folder):
    metrics = run_folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-30])
    cli.succeeds("eval", run_folder, *FEW)
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert re.search(r"metrics.jsonl has 1 damaged of \d+ lines", page)


def test_unwritable_run_is_refused_before_the_model_is_loaded(cli, run_folder, monkeypatch):
    monkeypatch.setattr("mxd.cli._paths.os.access", lambda path, mode: mode != os.W_OK)
    monkeypatch.setattr("mxd.cli._run.load_model", None)
    cli.refuses(["eval", run_folder], run_folder, "cannot be written to")


def test_file_in_the_place_of_the_figures_is_refused(cli, run_folder):
    (run_folder / "eval").write_text("mine", encoding="utf-8")
    result = cli("eval", run_folder, *FEW)
    assert result.code == 2
    assert "File exists" in result.err
    assert str(run_folder / "eval") in result.err
