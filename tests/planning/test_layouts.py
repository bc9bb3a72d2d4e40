import pytest
from tests.planning._parts import CEILINGS, device, training
from tests.planning._traffic_checks import steps_send_what_is_planned
from tests.training.distributed.ranks import assert_done, run_ranks

from mxd.planning import Division, Share, divisions, step_time
from mxd.planning.wires import LINK_LATENCY, NETWORK_LATENCY
from mxd.training.distributed.layout import Layout


def share(of, *, model_devices=1, **sizes):
    return Share(of, Division(Layout(**sizes), model_devices))


def test_one_process_sends_nothing():
    assert share(training()).traffic().total == 0


@pytest.mark.parametrize(
    ("ranks", "layouts"),
    [
        (2, ["data=2", "experts=2", "students=2"]),
        (4, ["data=4", "experts=4", "data=2,experts=2", "data=2,students=2"]),
    ],
)  # fmt: skip
def test_a_real_step_sends_what_is_planned(ranks, layouts):
    architectures = ["mxd", "skip_transcoder"]
    assert_done(run_ranks(steps_send_what_is_planned, ranks, layouts, architectures))


def test_gradients_go_round_the_rings_of_those_who_hold_the_same():
    of = training()
    (student,) = of.students
    units, dense = 32 * (8 + 1 + 8), 16 * (8 + 1 + 8) + 8
    assert student.parameters == units + dense
    sent = share(of, data=4).traffic()
    assert sent.gradients == 2 * (4 * units + 32) * 3 // 4  # and a flag for each unit
    assert sent.replicated == 2 * 4 * dense * 3 // 4
    assert sent.total == sent.gradients + sent.replicated
    both = share(of, data=2, experts=4).traffic()
    assert both.gradients == 2 * (4 * units + 32) // 4 // 2
    assert both.replicated == 2 * 4 * dense * 7 // 8


def test_expert_parallel_holds_its_units_and_all_of_the_rest():
    of = training()
    found = share(of, experts=4)
    assert found.parameters(of.students[0]) == 32 * 17 // 4 + 16 * 17 + 8
    assert (found.tokens, found.own_tokens) == (64, 16)


def test_rows_travel_in_the_type_of_the_buffer():
    wide, narrow = (share(training(buffer_element=n), experts=2).traffic() for n in (4, 2))
    assert wide.rows == 2 * narrow.rows > 0


def test_sums_over_all_processes_of_a_layer_take_their_own_wire():
    """Within a node each group of units has fast links; its dense branch crosses to the next."""
    of = training(width=64, d=512, hidden=4096)
    near, far = (
        step_time(share(of, data=2, experts=4), device(80), CEILINGS, per_node=n).wires
        for n in (8, 4)
    )
    both = share(of, data=2, experts=4)
    sent, hops = both.traffic(), both.hops()
    slower = (sent.gradients + sent.replicated) * (1e-10 - 1e-11)
    later = (hops.gradients + hops.replicated) * (NETWORK_LATENCY - LINK_LATENCY)
    assert far - near == pytest.approx(slower + later)


def test_candidates_do_not_grow_with_n():
    narrow, wide = (share(training(width=n), experts=2).traffic() for n in (32, 320))
    assert narrow.candidates == wide.candidates


def test_layers_are_dealt_out():
    of = training(5)
    found = share(of, students=2)
    assert [one.site for one in found.students] == ["b.0.mlp", "b.2.mlp", "b.4.mlp"]
    assert found.tokens == 64
    assert found.rows == 128 // 2


def test_a_split_model_shares_its_rows():
    of = training(4)
    sent = share(of, students=4, model_devices=4).traffic()
    assert sent.rows == 0  # all four have the same text
    assert sent.model == 2 * (2 * 4 * 64 * 8 * 2) * 3 // 4


def test_hops_grow_with_the_rings():
    one, two = (share(training(2), experts=n).hops() for n in (2, 4))
    assert (one.experts, two.experts) == (3 * 2 * 1, 3 * 2 * 3)
    assert (one.rows, two.rows) == (2 * 1, 2 * 3)
    assert share(training(2), data=5).hops().gradients == 2 * 2 * 4
    both = share(training(2), data=5, experts=2).hops()
    assert (both.gradients, both.replicated) == (2 * 2 * 4, 2 * 2 * 9)
    assert share(training(2), students=2, model_devices=2).hops().model == 2 * 2 * 2 * 1 * 1


@pytest.mark.parametrize("devices", [1, 6, 8, 12])
def test_divisions_use_every_device(devices):
    found = list(divisions(training(3), devices))
    assert found
    assert all(one.ranks == devices for one in found)
    assert all(one.group % one.model_devices == 0 for one in found)
    assert all(one.layout.students <= 3 for one in found)
    assert len({str(one) for one in found}) == len(found)


def test_no_more_parts_of_a_batch_than_tokens():
    found = list(divisions(training(tokens=64), 128))
    assert max(one.layout.data for one in found) == 64
