import json

import pytest

from mxd.errors import UserError
from mxd.planning import KINDS, calibrate, device_of

_CEILINGS = {
    "gflops": {"encoder_float32": 100.0, "gate_chunk_float32": 120.0},
    "gigabytes_per_second": {
        "copy": 30.0, "read": 35.0, "triad": 20.0, "table_rows": 10.0, "batch_rows": 40.0,
    },
    "gigavalues_compared_per_second": 15.0,
}  # fmt: skip


def written(path, document):
    path.write_text(json.dumps(document))
    return path


def test_the_best_rate_of_each_kind_is_a_ceiling(tmp_path):
    path = written(
        tmp_path / "c.json", {"machine": "here", "ceilings": _CEILINGS, "step_over_floor": 1.5}
    )
    device = device_of("cpu", ceilings=path)
    assert device.measured
    assert (device.distance, device.distance_source) == (1.5, "measured")
    found = device.ceilings
    assert found.flops == {"float32": 120e9}
    assert (found.bandwidth, found.table_rows, found.batch_rows) == (35e9, 10e9, 40e9)


def test_results_of_the_cost_benchmark_are_read_too(tmp_path):
    cell = {"precisions": {"float32": {"measured_over_floor": {"step": 1.4}}}}
    document = {
        "machine": {"processor": "P", "threads": 2},
        "parts": {
            "ceilings": {"result": _CEILINGS},
            "steps": {"result": {"mxd": cell, "transcoder": cell}},
        },
    }
    device = device_of("cpu", ceilings=written(tmp_path / "c.json", document))
    assert device.ceilings.name == "P, 2 threads"
    assert device.distance == 1.4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cpu"])
def test_data_sheets_say_that_they_are_not_measured(kind):
    device = device_of(kind)
    assert not device.measured
    assert device.distance_source == "assumed"
    assert device.ceilings.source.startswith("data sheet")


def test_what_is_given_wins():
    device = device_of("h200", memory_bytes=5, distance=3.0)
    assert (device.memory_bytes, device.distance, device.distance_source) == (5, 3.0, "given")


@pytest.mark.parametrize("distance", [0.5, float("nan"), float("inf")])
def test_a_distance_below_one_is_refused(distance):
    with pytest.raises(UserError, match="1 or more"):
        device_of("h100", distance=distance)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="h100"):
        device_of("tpu")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"ceilings": {}, "machine": "m", "step_over_floor": 1},
        {"machine": "m", "ceilings": {**_CEILINGS, "gflops": {"a_float32": -1}}},
        {"machine": "m", "ceilings": _CEILINGS, "step_over_floor": "far"},
        {"machine": "m", "ceilings": _CEILINGS, "step_over_floor": True},
        {"machine": 3, "parts": {}},
        {"parts": {"ceilings": None}},
    ],
)
def test_files_without_ceilings_are_refused(tmp_path, document):
    with pytest.raises(UserError, match="holds no ceilings"):
        device_of("cpu", ceilings=written(tmp_path / "c.json", document))


def test_damaged_and_missing_files_are_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        device_of("cpu", ceilings=tmp_path / "broken.json")
    with pytest.raises(UserError, match="--calibrate"):
        device_of("cpu", ceilings=tmp_path / "none.json")


def test_a_calibration_is_what_a_plan_reads(tmp_path):
    found = calibrate("here", rounds=1, scale=32)
    device = device_of("cpu", ceilings=written(tmp_path / "c.json", found))
    assert device.measured
    assert device.distance == found["step_over_floor"] >= 1
