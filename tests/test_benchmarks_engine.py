"""The step benchmark measures what it says, skips what it must, and shows no more than that."""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from benchmarks.engine import contenders, plot, protocol, run, table, worker_mxd, worker_obvious
from benchmarks.engine.cells import CONTENDERS, parameters, plan
from benchmarks.engine.contenders import Contender, ContenderError
from benchmarks.engine.protocol import Case, Prepared, Worker, peak
from benchmarks.engine.result import cells_to_keep, machine_tag
from benchmarks.engine.targets import verdicts

from mxd import MxD, MxDConfig, Transcoder, TranscoderConfig

CASE = Case(architecture="mxd", d_in=8, d_out=6, d_hidden=12, n=20, k=3, tokens=10)
SMALL = asdict(CASE)


def test_plan_holds_every_shape_and_precision():
    cells = plan(bf16_native=True)
    grid = {
        (c.case.architecture, c.case.n, c.case.k, c.case.dtype) for c in cells if c.part == "grid"
    }
    assert len(grid) == 2 * 4 * 3 * 2
    steps = {(c.case.architecture, c.case.dtype): c for c in cells if c.part == "steps"}
    assert steps["transcoder", "bf16"].contenders == CONTENDERS["transcoder"]
    assert steps["mxd", "bf16"].case.tokens == 4096
    matched = [parameters(steps[name, "float32"].case) for name in ("mxd", "transcoder")]
    assert abs(matched[0] - matched[1]) < 1e-3 * matched[0]


def test_plan_measures_emulated_bf16_little():
    cells = plan(bf16_native=False)
    emulated = [c for c in cells if c.case.dtype == "bf16"]
    assert {c.part for c in emulated} == {"steps"}
    assert all(c.case.tokens < 4096 for c in emulated)
    assert plan(all_bf16=True) == plan(bf16_native=True)


@pytest.mark.parametrize("architecture", ["mxd", "transcoder"])
@pytest.mark.parametrize("worker", [worker_obvious, worker_mxd])
def test_workers_train_the_parameters_that_are_counted(worker, architecture):
    case = Case(**SMALL | {"architecture": architecture})
    answering = Worker(worker.prepare, ())
    told = answering.answer({"prepare": SMALL | {"architecture": architecture}})
    assert told["parameters"] == parameters(case)
    assert told["parameter_bytes"] == told["gradient_bytes"] == 4 * told["parameters"]
    assert 8 * told["parameters"] <= told["optimizer_bytes"] < 8 * told["parameters"] + 100
    seconds = answering.answer({"step": 2})["seconds"]
    assert len(seconds) == 2
    assert min(seconds) > 0


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
@pytest.mark.parametrize("worker", [worker_obvious, worker_mxd])
def test_workers_steps_move_every_parameter(worker, dtype):
    prepared = worker.prepare(Case(**SMALL | {"dtype": dtype}))
    for _ in range(2):  # an MxD's decoder starts at zero, so its gate moves at the second
        before = [p.detach().clone() for p in prepared.parameters]
        prepared.step()
    for old, parameter in zip(before, prepared.parameters, strict=True):
        assert parameter.dtype == torch.float32
        assert not torch.equal(old, parameter)
        assert parameter.grad is None


def test_obvious_layers_compute_what_mxd_computes():
    torch.manual_seed(0)
    obvious = worker_obvious.ObviousMxD(CASE)
    layer = MxD(MxDConfig(d_in=8, d_out=6, d_hidden=12, n_experts=20, k=3, activation="gelu"))
    pairs = {
        layer.gate.weight: obvious.encoder.weight,
        layer.gate.bias: obvious.encoder.bias,
        layer.modulators: obvious.decoder,
        layer.encoder.weight: obvious.up.weight,
        layer.encoder.bias: obvious.up.bias,
        layer.bias: obvious.bias,
    }
    with torch.no_grad():
        for own, other in pairs.items():
            own.copy_(other)
        layer.decoder.copy_(obvious.down.weight.T)
    x, y = CASE.data()
    for made in (layer, obvious):
        (made(x) - y).square().sum().backward()
    torch.testing.assert_close(layer(x), obvious(x))
    for own, other in pairs.items():
        torch.testing.assert_close(own.grad, other.grad)


def test_obvious_transcoder_computes_what_mxd_computes():
    torch.manual_seed(0)
    obvious = worker_obvious.ObviousTranscoder(CASE)
    layer = Transcoder(TranscoderConfig(d_in=8, d_out=6, n_latents=20, k=3))
    with torch.no_grad():
        layer.encoder.load_state_dict(obvious.encoder.state_dict())
        layer.decoder.copy_(obvious.decoder)
    x, _ = CASE.data()
    torch.testing.assert_close(layer(x), obvious(x))


def test_worker_answers_errors_and_goes_on(capfd):
    def prepare(case):
        if case.tokens == 1:
            raise MemoryError("too little\nof it")
        return worker_obvious.prepare(case)

    worker = Worker(prepare, ())
    assert worker.answer({"prepare": SMALL | {"tokens": 1}}) == {"error": "MemoryError: too little"}
    assert "before prepare" in worker.answer({"step": 1})["error"]
    assert "prepare" not in worker.answer({"prepare": SMALL}).get("error", "")
    assert worker.answer({"release": True}) == {}
    assert "before prepare" in worker.answer({"peak": True})["error"]
    assert "dance" in Worker(prepare, ()).answer({"dance": True})["error"]
    capfd.readouterr()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_peak_is_what_a_step_allocates_beyond_its_gradients():
    weight = torch.nn.Parameter(torch.ones(4_000_000))

    def step():
        weight.grad = torch.ones_like(weight)  # 16 MB, which are gradients
        torch.ones(16_000_000).sum()  # 64 MB for a moment

    prepared = Prepared(step=step, parameters=[weight], state=list, comprises="")
    step()
    beyond = peak(prepared, CASE)["beyond_bytes"]
    assert 60e6 < beyond < 75e6


def test_contender_is_asked_through_a_process():
    with Contender("obvious") as contender:
        assert contender.describe()["versions"]["torch"] == torch.__version__
        assert contender.prepare(CASE)["parameters"] == parameters(CASE)
        assert len(contender.step(3)) == 3
        assert contender.peak() is not None or not Path("/proc/self/clear_refs").exists()
        with pytest.raises(ContenderError, match=r"RuntimeError.*k"):
            contender.prepare(Case(**SMALL | {"k": 21}))


def test_contender_that_dies_is_reported(tmp_path, monkeypatch):
    script = tmp_path / "bin" / "python"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(contenders, "python_of", lambda name: script)
    with pytest.raises(ContenderError, match="ended with 3: no such library"):
        Contender("obvious").describe()


def test_missing_peer_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(contenders, "ENVIRONMENTS", tmp_path)
    with pytest.raises(ContenderError, match="make bench-peers"):
        Contender("sparsify").describe()
    (tmp_path / "sparsify.log").write_text("first\nERROR: no matching distribution\n")
    with pytest.raises(ContenderError, match="not installed: ERROR: no matching"):
        Contender("sparsify").describe()


def _document(own, other, *, native=True, beyond=(100, 301)):
    def cell(architecture, dtype, results):
        shape = {"part": "steps", "architecture": architecture, "dtype": dtype, "tokens": 4096}
        return shape | {"results": results}

    ours = {"median": own, "beyond_bytes": beyond[0]}
    theirs = {"median": other, "beyond_bytes": beyond[1]}
    return {
        "machine": {"bf16_native": native},
        "cells": [
            cell("mxd", "float32", {"mxd": ours, "obvious": theirs}),
            cell("mxd", "bf16", {"mxd": {"median": own / 2}}),
            cell("transcoder", "float32", {"mxd": ours, "sparsify": {"error": "not installed"}}),
        ],
    }


def test_verdicts_compare_with_the_targets():
    found = verdicts(_document(2.0, 6.0))
    assert [v.met for v in found[:3]] == ["yes", "no", "yes"]  # 3.0 ≥ 2.8, 6.0 < 8, 3.01 ≥ 3
    assert [v.measured for v in found[:3]] == ["3.00 ×", "6.00 ×", "3.01 ×"]
    assert found[3][2:] == ("not installed", "not measured")
    assert verdicts(_document(2.0, 5.0))[0].met == "no"
    emulated = verdicts(_document(2.0, 6.0, native=False))
    assert emulated[1].met == "not measured"
    assert emulated[0].met == "yes"


class _InProcess(Contender):
    """A contender whose worker answers here, which saves the start of two processes."""

    def __init__(self, name, *, tuned=True):
        super().__init__(name, tuned=tuned)
        made = {"mxd": worker_mxd.prepare, "obvious": worker_obvious.prepare}
        self._worker = Worker(made[name], ())

    def _ask(self, request, value):
        return json.loads(json.dumps(self._worker.answer(json.loads(json.dumps({request: value})))))


def test_quick_run_is_measured_drawn_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "Contender", _InProcess)
    monkeypatch.setattr(protocol.gc, "collect", lambda: 0)  # slow beside a whole test session
    result, page, image = tmp_path / "r.json", tmp_path / "page.md", tmp_path / "e.png"
    flags = ["--quick", "--contenders", "mxd,obvious", "--out", str(result)]
    assert run.main(flags) == 0
    document = json.loads(result.read_text(encoding="utf-8"))
    assert len(document["cells"]) == 2 * 2 + 2 * 2 * 2
    for cell in document["cells"]:
        for found in cell["results"].values():
            assert len(found["seconds"]) >= 2
            assert found["q1"] <= found["median"] <= found["q3"]
    assert set(document["versions"]) == {"mxd", "obvious"}
    page.write_text(f"# Kept\n\n{table.BEGIN}\nold\n{table.END}\n\nkept too\n")
    table.main(["--result", str(result), "--page", str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Kept\n")
    assert text.endswith("kept too\n")
    assert "old" not in text
    own = document["cells"][0]["results"]["mxd"]["median"]
    assert re.search(rf"float32 \| mxd \| {re.escape(f'{own:.3g}')} \|.*\| 1\.00 \|", text)
    plot.main(["--result", str(result), "--out", str(image)])
    assert image.read_bytes().startswith(b"\x89PNG")
    assert "written to" in capsys.readouterr().out


def test_interrupted_run_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    def interrupted(cell, *_, **__):
        if cell.case.dtype == "bf16":
            raise KeyboardInterrupt
        return {"mxd": {"skipped": "pretended"}}

    monkeypatch.setattr(run, "measure", interrupted)
    monkeypatch.setattr(run, "_described", lambda worker: {"versions": {}, "threads": 1})
    out = tmp_path / "r.json"
    flags = ["--quick", "--only", "steps", "--contenders", "mxd", "--out", str(out)]
    assert run.main(flags) == 130
    assert len(json.loads(out.read_text())["cells"]) == 2
    assert "stopped" in capsys.readouterr().out


def test_unknown_contender_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["--contenders", "mxd,nobody"])
    assert stopped.value.code == 2
    assert "nobody" in capsys.readouterr().err


def test_part_of_an_earlier_result_is_kept(tmp_path):
    path = tmp_path / "r.json"
    steps, grid = plan(parts=("steps",))[0].shape(), plan(parts=("grid",))[0].shape()
    assert cells_to_keep(path, [steps]) == []
    path.write_text(json.dumps({"cells": [steps | {"results": {}}, grid | {"results": {}}]}))
    assert cells_to_keep(path, [steps]) == [grid | {"results": {}}]


def test_machine_tag_is_a_file_name():
    assert machine_tag({"processor": "AMD EPYC", "threads": 2}) == "amd-epyc-2-threads"
    found = {"processor": "x", "threads": 2, "accelerator": "NVIDIA H200"}
    assert machine_tag(found) == "nvidia-h200"


def test_workers_need_nothing_of_mxd_in_their_own_environments():
    root = Path(contenders.__file__).parent
    for name in ("sparsify", "saelens", "dictlearn", "obvious"):
        assert "mxd" not in re.findall(
            r"^\s*(?:from|import) (\w+)", (root / f"worker_{name}.py").read_text(), re.M
        )
        if name != "obvious":
            assert (root / f"requirements-{name}.txt").read_text().count("==") > 10
    assert sys.executable == str(contenders.python_of("obvious"))
