"""Layouts, splits and the groups that come of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.training.distributed import _world_checks
from tests.training.distributed.ranks import assert_done, run_ranks

from mxd.errors import UserError
from mxd.training.distributed import Groups, Layout, Split, dealt, split_units


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        (None, 1, (1, 1, 1)),
        ("", 4, (4, 1, 1)),
        ("data=2,experts=2", 4, (2, 1, 2)),
        (" experts = 2 , data=2 ,", 4, (2, 1, 2)),
        ("experts=2", 8, (4, 1, 2)),
        ("students=3", 6, (2, 3, 1)),
        ("data=2,experts=2", 8, (2, 2, 2)),
        ("data=1,students=2", 6, (1, 2, 3)),
        ("data=2", 2, (2, 1, 1)),
        ("data=2,students=2,experts=2", 8, (2, 2, 2)),
    ],
)
def test_layout_is_parsed(text: str | None, size: int, expected: tuple[int, int, int]) -> None:
    layout = Layout.parse(text, size)
    assert (layout.data, layout.students, layout.experts) == expected
    assert layout.world_size == size
    assert Layout.parse(str(layout), size) == layout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data=3", "got layout 'data=3' for 4 processes, expected .*, got 3"),
        ("data=2", "expected sizes whose product is that number, got 2"),
        ("data=2,students=1,experts=1", "got 2; change the layout"),
        ("data=8", "got 8; change the layout"),
        ("rows=2", "got 'rows=2' in layout 'rows=2', expected each of data, students, experts"),
        ("data", "got 'data' in layout"),
        ("data=2,data=2", "got 'data=2' in layout"),
        ("data=0", "got data='0', expected a whole number of at least 1"),
        ("data=-1", "got data='-1'"),
        ("data=²", "got data='²'"),
        ("data=99999999999999999999", "got data='9"),
    ],
)
def test_layout_that_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Layout.parse(text, 4)


@given(st.integers(0, 1000), st.integers(1, 17))
def test_even_splits_cover_everything_once(total: int, ranks: int) -> None:
    splits = [Split.even(total, ranks, rank) for rank in range(ranks)]
    assert [i for s in splits for i in range(total)[s.own]] == list(range(total))
    assert max(splits[0].counts) - min(splits[0].counts) <= 1
    assert sum(s.own_among_first(7) for s in splits) == min(7, total)
    assert [s.own_count for s in splits] == list(splits[0].counts)
    assert sorted(i for r in range(ranks) for i in dealt(total, ranks, r)) == list(range(total))


def test_more_ranks_than_units_are_refused() -> None:
    with pytest.raises(UserError, match=r"got a layer of 3 units for 4 ranks.*experts=3 or fewer"):
        split_units(3, 4, 0)
    with pytest.raises(UserError, match="got data=0, expected a whole number"):
        Layout(data=0)


GROUPS = {
    "data=2,experts=2": {
        "places": [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]],
        "everyone": [[0, 1, 2, 3]],
        "data": [[0, 2], [1, 3]],
        "experts": [[0, 1], [2, 3]],
        "batch": [[0, 1], [2, 3]],
        "replicas": [[0, 1, 2, 3]],
    },
    "students=2,experts=2": {
        "places": [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]],
        "everyone": [[0, 1, 2, 3]],
        "data": [[0], [1], [2], [3]],
        "experts": [[0, 1], [2, 3]],
        "batch": [[0, 1, 2, 3]],
        "replicas": [[0, 1], [2, 3]],
    },
    "data=2,students=2": {
        "places": [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]],
        "everyone": [[0, 1, 2, 3]],
        "data": [[0, 2], [1, 3]],
        "experts": [[0], [1], [2], [3]],
        "batch": [[0, 1], [2, 3]],
        "replicas": [[0, 2], [1, 3]],
    },
}


def test_groups_bring_the_right_ranks_together() -> None:
    assert_done(run_ranks(_world_checks.groups_of, 4, GROUPS))


def test_groups_refuse_another_number_of_processes() -> None:
    assert_done(run_ranks(_world_checks.refuses_another_layout, 2))
    with pytest.raises(UserError, match="of 2 processes and 1 of them"):
        Groups.of(Layout(data=2))


def test_one_process_has_no_groups() -> None:
    groups = Groups.of(Layout())
    assert groups.place == (0, 0, 0)
    assert groups.everyone is groups.replicas is groups.batch is None
