import json
from dataclasses import replace

import pytest
from tests.planning._parts import device, training

from mxd.errors import UserError
from mxd.planning import device_of, gigabytes, make_plan, plan_document
from mxd.planning.memory import ACCELERATOR_BYTES
from mxd.training.distributed.layout import Layout

_ROOM = ACCELERATOR_BYTES / 1e9
"""GB that a CUDA context takes."""


def test_one_device_that_holds_everything():
    plan = make_plan(training(), device(80))
    assert plan.option.fits
    assert plan.option.division.ranks == 1
    assert "holds everything" in plan.reason
    peak = plan.option.device_peak
    assert peak.bytes == sum(item.bytes for item in peak.items)


def test_what_one_layer_holds_by_hand():
    plan = make_plan(training(checkpoints=False, track_experts=False), device(80))
    sizes = {item.name: item.bytes for item in plan.option.items}
    parameters = 32 * 17 + 16 * 17 + 8
    assert sizes["layers, weights"] == 4 * parameters
    assert sizes["layers, AdamW's moments"] == 8 * parameters
    assert sizes["gradients of one layer"] == 4 * parameters
    assert sizes["language model, weights"] == 2 * 10_000
    assert sizes["shuffle buffer"] == 128 * 16 * 4
    assert sizes["batch, in float32"] == 64 * 16 * 4
    where = {item.name: item.where for item in plan.option.items}
    assert where["shuffle buffer"] == "host"
    assert where["layers, weights"] == "device"


def test_on_a_cpu_everything_is_in_one_memory():
    plan = make_plan(training(), device_of("cpu"))
    assert {item.where for item in plan.option.items} == {"device"}
    assert plan.option.host_peak.bytes == 0
    assert plan.option.tokens_per_second is None
    assert plan.hours is None


def test_gradients_exist_for_one_layer_at_a_time():
    one, four = (make_plan(training(n), device(80)).option for n in (1, 4))
    sizes = [{item.name: item.bytes for item in o.items} for o in (one, four)]
    assert sizes[1]["layers, weights"] == 4 * sizes[0]["layers, weights"]
    assert sizes[1]["gradients of one layer"] == sizes[0]["gradients of one layer"]


def test_a_layer_too_large_for_one_device_is_sharded():
    # 2 M units of width 8: 34 M parameters, 0.54 GB with gradients and moments
    of = training(width=2_000_000, checkpoints=False)
    assert not make_plan(of, device(_ROOM + 0.5)).option.fits
    plan = make_plan(of, device(_ROOM + 0.5), devices=4)
    assert plan.option.fits
    assert plan.option.division.layout.experts > 1
    assert "sharded" in plan.reason
    assert "would need" in plan.reason


def test_many_layers_too_large_together_are_dealt_out():
    of = training(
        8, width=200_000, checkpoints=False
    )  # 54 MB each, 41 of them for weights, moments
    plan = make_plan(of, device(_ROOM + 0.3), devices=8)
    assert plan.option.fits
    layout = plan.option.division.layout
    assert layout.students * layout.experts > 1
    assert "dealt out" in plan.reason or "sharded" in plan.reason


def test_a_model_too_large_for_one_device_is_split():
    of = training(4, parameters=1_000_000_000)  # 2 GB
    plan = make_plan(of, device(_ROOM + 1.5), devices=4)
    assert plan.option.fits
    assert plan.option.division.model_devices >= 2
    assert "language model is split" in plan.reason
    assert any("experimental" in note for note in plan_document(plan)["notes"])


def test_a_model_that_fits_is_not_split():
    plan = make_plan(training(8, width=500_000), device(80, link=1e9), devices=8)
    assert plan.option.division.model_devices == 1


def test_a_model_is_split_beyond_a_node_where_it_must_be():
    of = training(4, parameters=1_000_000_000)
    plan = make_plan(of, device(_ROOM + 0.8), devices=4, per_node=2)
    assert plan.option.fits
    assert plan.option.division.model_devices == 4
    assert any("beyond a node" in note for note in plan_document(plan)["notes"])


def test_nothing_fits_says_what_is_largest():
    plan = make_plan(training(parameters=10**12), device(80), devices=2)
    assert not plan.option.fits
    assert "no layout fits" in plan.reason
    assert "language model" in plan.reason


def test_small_layers_with_much_harvest_are_data_parallel():
    of = training(parameters=10**9)
    plan = make_plan(of, device(80), devices=8)
    assert plan.option.division.layout == Layout(data=8)
    assert "summing gradients" in plan.reason


def test_large_layers_over_slow_wires_are_not_data_parallel():
    of = training(8, width=500_000)
    plan = make_plan(of, device(80, link=1e9), devices=8)
    assert plan.option.division.layout.students == 8
    assert "data parallel alone takes" in plan.reason


def test_a_layout_that_is_asked_for_is_kept():
    plan = make_plan(training(2), device(80), devices=4, layout=Layout(data=2, students=2))
    assert plan.option.division.layout == Layout(data=2, students=2)
    assert "asked for" in plan.reason


@pytest.mark.parametrize(
    ("layout", "devices"),
    [(Layout(students=2), 2), (Layout(experts=64), 64), (Layout(data=65), 65)],
)
def test_a_layout_that_cannot_be_is_refused(layout, devices):
    with pytest.raises(UserError, match="give another layout"):
        make_plan(training(), device(80), devices=devices, layout=layout)


@pytest.mark.parametrize("devices", [0, -1, 10**6])
def test_numbers_of_devices_out_of_range_are_refused(devices):
    with pytest.raises(UserError, match="devices"):
        make_plan(training(), device(80), devices=devices)


def test_a_precision_without_a_rate_is_refused():
    with pytest.raises(UserError, match="float32, bf16"):
        make_plan(training(precision="tf32"), device(80))


def test_time_is_inverse_to_the_ceilings():
    of = training(parameters=10**9)
    slow = make_plan(of, device(80))
    assert slow.option.floor is not None
    harvest = 64 * 2 * 10**9 / 4e12  # bf16 weights
    assert slow.option.floor.harvest == pytest.approx(max(harvest, 2 * 10**9 / 1e11))
    assert slow.option.tokens_per_second == pytest.approx(64 / slow.option.floor.total)
    assert slow.hours == pytest.approx(640 / slow.option.tokens_per_second / 3600)


def test_document_is_plain_and_adds_up():
    plan = make_plan(training(3), device(80), devices=2)
    document = plan_document(plan, price_per_hour=2.5)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["cost"] == pytest.approx(2.5 * 2 * plan.hours)
    (layer,) = document["students"]
    assert layer["count"] == 3
    assert layer["training_bytes"] == 16 * layer["parameters"]
    step = document["step"]["expected_seconds"]
    assert step["total"] == pytest.approx(sum(v for k, v in step.items() if k != "total"))


def test_cost_is_told_only_where_a_price_is_given():
    assert plan_document(make_plan(training(), device(80)))["cost"] is None


def test_gigabytes_are_read_by_people():
    assert [gigabytes(n) for n in (12, 1_500, 2_340_000, 80e9, 999.7e9, 1.5e12)] == [
        "12 B", "1.5 kB", "2.34 MB", "80 GB", "1,000 GB", "1.5 TB",
    ]  # fmt: skip


def test_processes_of_a_node_share_its_host():
    of = training(checkpoints=False, track_experts=False)
    plan = make_plan(of, device(80, host=2), devices=2, per_node=2)
    assert plan.option.node_processes == 2
    assert plan.option.node_bytes == 2 * plan.option.host_peak.bytes
    alone = make_plan(of, device(80, host=2), devices=2, per_node=1)
    assert alone.option.node_bytes == alone.option.host_peak.bytes


def test_what_fits_a_device_and_not_its_host_does_not_fit():
    of = replace(training(buffer_tokens=20_000_000), tokens=20_000_000)
    rows = 20_000_000 * 16 * 4
    assert make_plan(of, device(80)).option.fits
    plan = make_plan(of, device(80, host=rows / 1e9))
    assert plan.option.fits_device
    assert not plan.option.fits
    assert "in a host's memory for 1 processes" in plan.reason
    assert "shuffle buffer" in plan.reason


def test_a_layout_that_leaves_room_on_the_host_is_taken():
    """Eight processes of a node each build a layer whole; a node for each has room."""
    of = training(8, width=2_000_000, checkpoints=False)
    tight = device(80, host=4)
    assert not make_plan(of, tight, devices=8).option.fits
    assert make_plan(of, tight, devices=8, per_node=1).option.fits


def test_on_a_cpu_all_processes_share_this_machine():
    of = training(width=200_000, checkpoints=False)
    one = make_plan(of, device_of("cpu", memory_bytes=2 * 10**9))
    assert one.option.fits
    four = make_plan(of, device_of("cpu", memory_bytes=2 * 10**9), devices=4)
    assert four.option.fits_device
    assert not four.option.fits_host
    assert four.option.node_bytes == 4 * four.option.device_peak.bytes
    assert "host" in four.reason
    roomy = device_of("cpu", memory_bytes=2 * 10**9, host_memory_bytes=10**10)
    assert make_plan(of, roomy, devices=4).option.fits


def test_an_unknown_host_is_said():
    def said(of_host):
        document = plan_document(make_plan(training(), device(80, host=of_host)))
        return any("--host-memory" in note for note in document["notes"])

    assert said(None)
    assert not said(100)


def test_layers_are_whole_on_the_host_at_the_ends():
    of = training(width=4_000, checkpoints=False)
    (layer,) = of.students
    items = make_plan(of, device(80), devices=2, layout=Layout(experts=2)).option.items
    sizes = {item.name: item.bytes for item in items if item.where == "host"}
    for name in ("a whole layer, before it is cut or moved", "a layer, put together"):
        assert sizes[name] == 4 * layer.parameters
    alone = {item.name for item in make_plan(of, device_of("cpu")).option.items}
    assert not any("whole" in name or "put together" in name for name in alone)
