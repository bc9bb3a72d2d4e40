import pytest
from tests.planning._parts import training

from mxd.planning import Division, Share, divisions
from mxd.training.distributed.layout import Layout


def share(of, *, model_devices=1, **sizes):
    return Share(of, Division(Layout(**sizes), model_devices))


def test_one_process_sends_nothing():
    assert share(training()).traffic().total == 0


def test_gradients_of_a_ring_by_hand():
    of = training()
    (student,) = of.students
    units, dense = 32 * (8 + 1 + 8), 16 * (8 + 1 + 8) + 8
    assert student.parameters == units + dense
    sent = share(of, data=4).traffic()
    assert sent.gradients == 2 * (units + dense) * 4 * 3 // 4
    assert sent.total == sent.gradients


def test_expert_parallel_traffic_by_hand():
    of = training()
    found = share(of, experts=4)
    sent = found.traffic()
    tokens, k, d = 64, 4, 8
    assert sent.candidates == tokens * k * 12 * 3 // 4
    assert sent.sums == 2 * tokens * d * 4 * 3 // 4
    assert sent.rows == tokens * (d + d) * 4 * 3 // 4  # every process gets the whole batch
    assert sent.gradients == 0
    assert found.parameters(of.students[0]) == 32 * 17 // 4 + 16 * 17 + 8
    assert (found.tokens, found.own_tokens) == (64, 16)


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
