"""The GPU benchmark runs to its end without a GPU, counts right, and stops at a wrong kernel."""

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def numbers(tree: Any) -> Iterator[float]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from numbers(item)
    elif isinstance(tree, float):
        yield tree


def test_every_part_is_measured_and_written(
    benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found["parts"]) == list(benchmark.PARTS)
    assert found["quick"] is True
    assert {"torch", "triton", "transformers"} <= set(found["versions"])
    assert all(math.isfinite(number) for number in numbers(found["parts"]))
    steps = {step["architecture"]: step for step in found["parts"]["steps"]["tiny"]}
    assert list(steps) == ["mxd", "transcoder"]
    seconds = {name: time["median"] for name, time in steps["mxd"]["seconds"].items()}
    assert len(seconds) == 4
    ratio = seconds["obvious, float32"] / seconds["mxd, bf16"]
    assert steps["mxd"]["speed_up_over_obvious_float32"] == pytest.approx(ratio)
    assert all(entry["tokens_per_second"] > 0 for entry in found["parts"]["training"])
    assert [entry["sequences"] for entry in found["parts"]["generation"]] == [1, 64]
    assert "× the obvious float32 step" in capsys.readouterr().out


def test_nothing_is_timed_after_a_wrong_kernel(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = importlib.import_module("mxd.kernels._torch_rows")
    right = rows.row_products
    monkeypatch.setattr(rows, "row_products", lambda *inputs: 1.001 * right(*inputs))
    with pytest.raises(SystemExit, match="torch row_products float32"):
        benchmark.main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    assert not (tmp_path / "gpu.json").exists()


def test_full_sizes_need_a_gpu(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--device", "cpu"])
    assert "--quick runs anywhere" in capsys.readouterr().err


def test_counts_equal_those_by_hand(benchmark: Any) -> None:
    kernels = importlib.import_module("on_gpu.kernels")
    shape = benchmark.Shape(d_in=3, d_out=5, hidden=7, units=11, k=2, tokens=4)
    rows = kernels._sum_counts("weighted_rows", shape, 2)
    # 8 values and int64 indices; at most 8 of 11 rows of the table; 4 rows of output
    assert rows["bytes"] == 8 * (2 + 8) + 8 * 5 * 2 + 4 * 5 * 2
    assert rows["flops"] == 2 * 8 * 5
    sums = kernels._sum_counts("scatter_rows", shape, 2)
    assert sums["bytes"] == 8 * (2 + 8) + 4 * 5 * 2 + 11 * 5 * 4


def test_obvious_layers_compute_the_same_with_the_plain_kernels(benchmark: Any) -> None:
    steps = importlib.import_module("on_gpu.steps")
    naive = importlib.import_module("mxd.kernels.naive")
    shape = benchmark.TINY["mxd"]
    layer, (x, _) = steps.new_layer("mxd", shape), steps.batch(shape)
    torch.nn.init.normal_(layer.decoder)
    fast = layer(x)
    called: list[int] = []
    original = naive.gate

    def counted(*inputs: Any, **options: Any) -> Any:
        called.append(1)
        return original(*inputs, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.naive, "gate", counted)
        with steps.obvious_kernels():
            plain = layer(x)
    assert called == [1]
    torch.testing.assert_close(fast, plain)
    layer(x)
    assert called == [1]
