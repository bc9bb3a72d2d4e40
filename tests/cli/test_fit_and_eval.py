import json
import math
import shutil
from typing import Any

import pytest
from tests.cli._parts import contents, read_json, small

import mxd

SITES = {"gpt2": "transformer.h.1.mlp", "llama": "model.layers.1.mlp"}
STUDENTS = ["mxd-k3-w24-s42", "transcoder-k3-w24-s42", "topk_autoencoder-k3-w24-s42"]
DOCUMENT_KEYS = {
    "tokens", "base_cross_entropy", "zero_ablation_cross_entropy", "mean_ablation_cross_entropy",
    "layers",
}  # fmt: skip
LAYER_KEYS = {
    "name", "site", "architecture", "k", "width", "seed", "parameters", "active_parameters",
    "flops_per_token", "nmse", "nmse_without_bos", "fvu", "static_nmse", "modulation_share",
    "cross_entropy", "delta_cross_entropy", "delta_cross_entropy_se", "loss_recovered", "kl",
    "l0", "dead_fraction", "usage_entropy", "max_expert_frequency", "experts_above_10pct",
    "top_expert_share",
}  # fmt: skip
ONLY_MXD = {"static_nmse", "modulation_share"}
TIMES = {"seconds", "tokens_per_second", "harvest_seconds", "student_seconds"}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def journey(request, saved, text, tmp_path_factory) -> dict[str, Any]:
    """A training and an evaluation of three architectures, and what the two commands gave."""
    from mxd.cli.main import run

    folder = tmp_path_factory.mktemp(request.param)
    out = folder / "run"
    flags = small(
        text=text, arch="mxd,transcoder,topk_autoencoder", out=out, json=folder / "fit.json"
    )
    assert run(["fit", str(saved(request.param)), *flags]) == 0
    fitted = contents(out)
    evaluate = ["eval", str(out), "--tokens", "500", "--json", str(folder / "eval.json")]
    assert run(evaluate) == 0
    return {"arch": request.param, "out": out, "folder": folder, "fitted": fitted}


def test_fit_writes_a_run(journey):
    files = set(journey["fitted"])
    assert {"run.json", "metrics.jsonl", "layers"} <= files
    assert any("tfevents" in name for name in files)
    for student in STUDENTS:
        folder = f"layers/{SITES[journey['arch']]}/{student}"
        assert {f"{folder}/config.json", f"{folder}/model.safetensors", f"{folder}/README.md"} <= (
            files
        )


def test_run_json_records_what_was_done(journey, saved):
    record = read_json(journey["out"] / "run.json")
    assert record["format"] == "mxd-run"
    assert record["base_model"]["name"] == str(saved(journey["arch"]))
    assert [entry["name"] for entry in record["students"]] == STUDENTS
    assert record["recipe"]["tokens"] == 768
    assert record["seeds"] == {"run": 42, "students": [42]}
    assert record["data"]["tokens_trained"] == 768
    assert len(record["data"]["fingerprint"]) == 64
    assert record["complete"] is True
    assert {"mxd", "torch", "transformers", "python"} <= set(record["versions"])
    shown = read_json(journey["folder"] / "fit.json")
    assert {**record, **shown} == record
    assert set(record) - set(shown) <= {"format", "format_version"}


def test_metrics_have_a_row_for_every_student_and_report(journey):
    lines = journey["fitted"]["metrics.jsonl"].decode().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["student"] for row in rows] == STUDENTS * 3
    assert sorted({row["step"] for row in rows}) == [4, 8, 12]
    assert all(math.isfinite(row["nmse"]) and row["tokens_per_second"] > 0 for row in rows)


def test_eval_writes_the_document_of_the_contract(journey):
    document = read_json(journey["folder"] / "eval.json")
    assert set(document) >= DOCUMENT_KEYS
    assert 0 < document["tokens"] <= 500
    assert [layer["name"] for layer in document["layers"]] == STUDENTS
    for layer in document["layers"]:
        assert set(layer) >= LAYER_KEYS
        absent = {key for key in LAYER_KEYS if layer[key] is None}
        assert absent == (set() if layer["architecture"] == "mxd" else ONLY_MXD)
        assert layer["site"] == SITES[journey["arch"]]
        assert (layer["k"], layer["width"], layer["seed"]) == (3, 24, 42)
        assert 0 < layer["l0"] <= 3
    assert read_json(journey["out"] / "eval" / "held-out.json") == document


def test_eval_writes_report_and_figures(journey):
    report = (journey["out"] / "report.html").read_text(encoding="utf-8")
    assert "<html" in report
    assert all(name in report for name in ("MxD", "transcoder"))
    for name in ("frontier", "activity", "training"):
        for ending in ("png", "svg"):
            assert (journey["out"] / "figures" / f"{name}.{ending}").stat().st_size > 1000


def test_eval_writes_measured_numbers_into_the_model_cards(journey):
    document = read_json(journey["folder"] / "eval.json")
    for figures in document["layers"]:
        name = f"layers/{figures['site']}/{figures['name']}"
        assert b"Nothing yet" in journey["fitted"][f"{name}/README.md"]
        card = (journey["out"] / name / "README.md").read_text(encoding="utf-8")
        assert "Nothing yet" not in card
        for key in ("nmse", "delta_cross_entropy", "loss_recovered"):
            assert f"{figures[key]:.5g}" in card
        layer = mxd.load(journey["out"] / name)
        assert layer.provenance.evaluation["nmse"] == figures["nmse"]


def test_eval_prints_a_table_and_where_the_report_is(cli, journey):
    result = cli.succeeds("eval", journey["out"], "--tokens", "500")
    document = read_json(journey["folder"] / "eval.json")
    assert f"{document['base_cross_entropy']:.4f}" in result.out
    assert f"{document['layers'][0]['nmse']:.3f}" in result.out
    assert str(journey["out"] / "report.html") in result.out.replace("\n", "")


def test_second_evaluation_gives_the_same_document(cli, journey, tmp_path):
    cli.succeeds("eval", journey["out"], "--tokens", "500", "--json", tmp_path / "again.json")
    first = (journey["folder"] / "eval.json").read_bytes()
    assert (tmp_path / "again.json").read_bytes() == first


def test_second_training_gives_the_same_bytes(cli, journey, saved, text, tmp_path):
    out = tmp_path / "run"
    flags = small(text=text, arch="mxd,transcoder,topk_autoencoder", out=out)
    cli.succeeds("fit", saved(journey["arch"]), *flags)
    again, first = contents(out), journey["fitted"]
    weights = [name for name in first if name.endswith(".safetensors")]
    assert len(weights) == 2 * len(STUDENTS)
    for name in weights:
        assert again[name] == first[name], name
    assert _timeless(again["metrics.jsonl"]) == _timeless(first["metrics.jsonl"])


def test_run_can_be_moved(cli, journey, tmp_path):
    moved = shutil.copytree(journey["out"], tmp_path / "elsewhere")
    assert str(moved) in cli.succeeds("eval", moved, "--tokens", "500").out.replace("\n", "")


def _timeless(metrics: bytes | None) -> list[dict[str, Any]]:
    assert metrics is not None
    rows = [json.loads(line) for line in metrics.decode().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_eval_of_the_text_it_was_trained_on_keeps_to_the_held_out_part(journey, text):
    from mxd.cli.main import run

    folder = journey["folder"]
    given = ["--text", str(text), "--tokens", "500", "--json", str(folder / "same.json")]
    assert run(["eval", str(journey["out"]), *given]) == 0
    same, held_out = (read_json(folder / name) for name in ("same.json", "eval.json"))
    assert same == held_out
    assert same["text"] == f"held-out part of {text}"
