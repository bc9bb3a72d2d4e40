"""What the cost benchmarks count, fit and write, against numbers by hand."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mxd
from mxd import kernels
from mxd.layers import base as base_layer

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def shape():
    from engine_costs.shapes import Shape

    return Shape(d_in=3, d_out=5, hidden=7, units=11, k=2, tokens=13)


def script(name):
    spec = importlib.util.spec_from_file_location(f"_script_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def by_name(architecture, shape, element=4):
    from mxd.planning import step_parts

    return {part.name: part for part in step_parts(architecture, shape, element)}


def test_gate_counts_equal_those_by_hand(shape):
    product = by_name("mxd", shape)["gate, product"]
    assert product.flops == 2 * 13 * 3 * 11
    # G and g (11·3 + 11 floats), x (13·3), K values and K int64 indices for each token
    assert product.bytes == 4 * 44 + 4 * 39 + 13 * 2 * 12
    assert by_name("mxd", shape)["gate, top-k"].comparisons == 13 * 11
    gradient = by_name("mxd", shape)["gate, weight gradient"]
    assert gradient.flops == 2 * 13 * 2 * 3
    assert gradient.batch_rows == 13 * 2 * 3 * 4


def test_rows_and_dense_branch_counts_equal_those_by_hand(shape):
    parts = by_name("mxd", shape, element=2)
    assert parts["rows, sum"].table_rows == 13 * 2 * 5 * 4  # the table stays float32
    assert parts["rows, table gradient"].batch_rows == 13 * 2 * 5 * 2
    assert parts["rows, table gradient"].bytes == 11 * 5 * 4 + 13 * 2 * 10
    assert parts["encoder and φ"].flops == 2 * 13 * 3 * 7
    assert parts["encoder and φ"].bytes == 4 * 7 * 4 + 13 * 3 * 2 + 2 * 13 * 7 * 2
    assert parts["decoder"].flops == 2 * 13 * 7 * 5
    dense = [p for p in parts.values() if p.group == "dense_backward"]
    assert sum(p.flops for p in dense) == 2 * 13 * 7 * (5 + 5 + 3)


def test_gpt2_shape_counts_the_known_figures():
    from engine_costs.shapes import gpt2_shape

    from mxd.planning import parameters

    shape = gpt2_shape("mxd")
    assert parameters("mxd", shape) == pytest.approx(37.8e6, rel=2e-3)
    assert parameters("transcoder", gpt2_shape("transcoder")) == 2 * 768 * 24576 + 24576 + 768
    assert by_name("mxd", shape)["gate, product"].flops == 135_203_389_440
    adamw = by_name("mxd", shape)["AdamW"]
    assert adamw.bytes == 7 * 4 * parameters("mxd", shape)


@pytest.mark.parametrize("architecture", ["mxd", "transcoder", "skip_transcoder"])
def test_parameters_are_those_of_the_layer(architecture, shape):
    from engine_costs.shapes import new_layer

    from mxd.planning import parameters

    layer = new_layer(architecture, shape)
    assert parameters(architecture, shape) == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("architecture", ["mxd", "transcoder", "skip_transcoder"])
def test_every_counted_group_is_measured(architecture, shape):
    from engine_costs.parts import measure_step

    from mxd.planning import H200, floors_by_group, step_parts

    times = measure_step(architecture, shape, rounds=1)
    floors = floors_by_group(step_parts(architecture, shape), H200, "float32")
    assert set(times) == {*floors, "step"}


def test_floor_is_the_scarcest_resource():
    from mxd.planning import Ceilings, Part, floor_seconds

    machine = Ceilings("m", "given", {"float32": 100.0}, 10.0, 5.0, 2.0, 50.0)
    assert floor_seconds(Part("p", "g", flops=200, bytes=10), machine, "float32") == 2.0
    rows = Part("p", "g", flops=200, bytes=10, table_rows=5, batch_rows=4)
    assert floor_seconds(rows, machine, "float32") == 1.0 + 1.0 + 2.0
    assert floor_seconds(Part("p", "g", comparisons=500), machine, "float32") == 10.0


def test_inference_reads_the_whole_gate_and_k_rows(shape):
    from engine_costs.floors import inference_weight_bytes

    assert inference_weight_bytes(None, shape) == 4 * (7 * 3 + 7 + 7 * 5 + 5)
    gate, rows, bias = 11 * 3 + 11, 2 * 5, 5
    assert inference_weight_bytes("transcoder", shape, 2) == 2 * (gate + rows + bias)
    dense = 7 * 3 + 7 + 7 * 5
    assert inference_weight_bytes("mxd", shape) == 4 * (gate + rows + bias + dense)


def test_plain_kernels_are_used_and_put_back(shape):
    from engine_costs.plain import plain_kernels
    from engine_costs.shapes import batch, new_layer

    layer, (x, _) = new_layer("mxd", shape).double(), batch(shape)
    with torch.no_grad():
        layer.decoder.normal_(generator=torch.Generator().manual_seed(0))
    fast = layer(x.double())
    with plain_kernels() as calls:
        assert base_layer.combine is not kernels.combine
        plain = layer(x.double())
    assert calls == {"gate": 1, "combine": 1}
    torch.testing.assert_close(fast, plain)
    layer(x.double())
    assert calls == {"gate": 1, "combine": 1}
    assert base_layer.combine is kernels.combine


def test_plain_kernels_are_put_back_after_an_error():
    from engine_costs.plain import plain_kernels

    with pytest.raises(RuntimeError), plain_kernels():
        raise RuntimeError
    assert base_layer.combine is kernels.combine


def test_accuracy_pairs_errors_by_seed():
    from engine_costs.accuracy import compare_errors

    errors = {
        "plain": {"mxd": {"1": 0.2, "2": 0.4}},
        "fast": {"mxd": {"2": 0.404, "1": 0.202}},
        "bf16": {"mxd": {"1": 0.21, "2": 0.42}},
    }
    found = compare_errors(errors)
    assert found["from_plain"]["fast"]["mxd"]["relative_difference"] == pytest.approx(0.01)
    assert found["from_plain"]["bf16"]["mxd"]["by_seed"] == pytest.approx([0.05, 0.05])
    assert not found["from_plain"]["bf16"]["mxd"]["within_1_percent"]
    expected = np.std([0.2, 0.4], ddof=1) / 0.3
    assert found["relative_spread_of_seeds"]["mxd"] == pytest.approx(expected)


def test_memory_guard_skips_what_does_not_fit(monkeypatch):
    from engine_costs import memory

    monkeypatch.setattr(memory, "available_bytes", lambda: 4 << 30)
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: pytest.fail("was started"))
    found = memory.measure_memory(units=(1 << 18,), tokens=1 << 14)
    assert len(found) == 4
    for entry in found:
        assert "of 4 GB available" in entry["skipped"]
    plain = memory.bytes_needed("plain", "mxd", memory.Shape(1, 1, 4, 1 << 16, 2, 1 << 14))
    assert plain > 4 * 4 * (1 << 30)  # at least four N-wide float32 tensors


def test_soak_recovers_a_planted_slope():
    soak = script("soak")
    noise = np.random.default_rng(0).normal(0, 0.5, 1200)
    seconds = np.arange(1200) * 1.5
    growing = [(float(s), 1000 + 120 * s / 3600 + e) for s, e in zip(seconds, noise, strict=True)]
    found = soak.slope(growing)
    assert abs(found["megabytes_per_hour"] - 120) < 3 * found["standard_error"]
    assert found["verdict"].startswith("grows")
    steady = [(float(s), 1000 + e) for s, e in zip(seconds, noise, strict=True)]
    assert soak.slope(steady)["verdict"].startswith("flat")
    early = [(s, 100 + 3 * s if s < 500 else 1600.0) for s in map(float, seconds)]
    assert soak.slope(early)["verdict"].startswith("flat")  # the first third does not count


@pytest.mark.parametrize("readings", [30, 200])
def test_soak_too_short_gives_no_verdict(readings):
    soak = script("soak")
    found = soak.slope([(float(s), 100.0 + s) for s in range(readings)])
    assert found["verdict"].startswith("too short")


def test_soak_interrupted_writes_what_it_has(monkeypatch, tmp_path, capsys):
    soak = script("soak")

    def interrupted(_model, _tokenizer, _plan, _documents, noted, *_):
        noted.readings.extend((float(s), 100.0) for s in range(1200))
        noted.tokens = 5
        raise KeyboardInterrupt

    monkeypatch.setattr(soak, "train", interrupted)
    soak.main(["--documents", "2", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["interrupted"]
    assert found["megabytes_per_hour"] == pytest.approx(0)
    assert (tmp_path / "soak.png").stat().st_size
    assert "flat" in capsys.readouterr().out


def test_entry_merges_parts_and_writes_its_own_section_alone(monkeypatch, tmp_path, capsys):
    costs = script("engine_costs")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- costs:begin -->\nold\n<!-- costs:end -->\nafter\n")
    given = ["--out", str(tmp_path), "--images", str(tmp_path), "--tag", "t", "--rounds", "1"]
    quick = ["--quick", *given]
    costs.main([*quick, "--only", "ceilings"])
    path = tmp_path / "engine-costs-t-quick.json"
    first = json.loads(path.read_text())["parts"]["ceilings"]
    costs.main([*quick, "--only", "steps"])
    found = json.loads(path.read_text())
    assert found["parts"]["ceilings"] == first
    cell = found["parts"]["steps"]["result"]["mxd"]["precisions"]["float32"]
    parts = {k: v for k, v in cell["floor_seconds"].items() if k != "step"}
    assert cell["floor_seconds"]["step"] == pytest.approx(sum(parts.values()))
    ratio = cell["seconds"]["step"]["median"] / cell["floor_seconds"]["step"]
    assert cell["measured_over_floor"]["step"] == pytest.approx(ratio)
    path.rename(tmp_path / "engine-costs-t.json")
    costs.main([*given, "--page-only", "--page", str(page)])
    text = page.read_text()
    assert text.startswith("before\n<!-- costs:begin -->\n")
    assert text.endswith("\n<!-- costs:end -->\nafter\n")
    assert "old" not in text
    assert "whole step" in text
    assert "NVIDIA H200" in text
    assert "`python benchmarks/engine_costs.py --only accuracy`" in text
    capsys.readouterr()


def test_page_without_markers_is_refused(tmp_path):
    from engine_costs.page import write_page

    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="costs:begin"):
        write_page({"machine": {"processor": "p", "threads": 1}, "parts": {}}, page)


def test_page_shows_every_kind_of_table():
    from engine_costs.page import tables

    part = {"date": "d", "threads": 1, "versions": {"torch": "2"}}
    skipped = {"architecture": "mxd", "implementation": "plain", "units": 4096, "skipped": "needs"}
    measured = {**skipped, "implementation": "mxd", "beyond_bytes": 2_000_000}
    del measured["skipped"]
    from engine_costs.accuracy import compare_errors

    errors = {"plain": {"mxd": {"1": 0.2}}, "fast": {"mxd": {"1": 0.21}}}
    accuracy = {"model": "m", "layer": 3, "k": 8, "seeds": [1], "evaluation_tokens": 10}
    accuracy["comparisons"] = [{"tokens": 10, **compare_errors(errors)}]
    accuracy["recall"] = {"float32": 1.0, "bf16": 0.99875}
    parts = {
        "memory": {**part, "result": [skipped, measured]},
        "accuracy": {**part, "result": accuracy},
    }
    text = tables({"machine": {"processor": "p", "threads": 1}, "parts": parts})
    assert "| MxD | plain | 4,096 | needs |" in text
    assert "| MxD | mxd | 4,096 | 2 MB |" in text
    assert "| 10 | MxD | fast, float32 | 0.2000 | +5.000% | – | **no** |" in text
    assert "100.0000% in float32, 99.8750% in bf16" in text


def test_grafted_generation_is_measured_beside_the_base():
    from engine_costs.inference import measure_inference

    (entry,) = measure_inference(batches=(2,), new_tokens=2, rounds=1, small=True, bandwidth=1e9)
    names = {f"{a}, {w}" for a in ("mxd", "transcoder") for w in ("one_layer", "all_layers")}
    assert set(entry["ratio_to_base"]) == names
    assert set(entry["layer"]["mxd"]["seconds"]) == {"layer", "gate", "combine", "dense_branch"}
    read = entry["layer"]["mxd"]["weight_bytes_for_one_token"]
    assert entry["layer"]["mxd"]["floor_seconds"] == pytest.approx(read / 1e9)


def test_plain_training_steps_equal_the_fast_ones(shape):
    from contextlib import nullcontext

    from engine_costs.parts import new_student
    from engine_costs.plain import plain_kernels
    from engine_costs.shapes import batch, new_layer

    trained = {}
    for name in ("fast", "plain"):
        student = new_student(new_layer("mxd", shape), shape)
        with plain_kernels() if name == "plain" else nullcontext():
            for _ in range(3):
                student.step(*batch(shape), nullcontext())
        trained[name] = student.layer
    assert isinstance(trained["fast"], mxd.MxD)
    for fast, plain in zip(*(layer.parameters() for layer in trained.values()), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
