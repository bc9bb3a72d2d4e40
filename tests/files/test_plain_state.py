"""Values of a saved state are of their kind, or the state is none."""

import math
from typing import Any

import pytest

from mxd._plain_state import flag, number, whole


def test_values_of_their_kind_come_through() -> None:
    state = {"n": 3, "x": 2, "y": 0.5, "yes": True}
    assert whole(state, "n") == 3
    assert (number(state, "x"), number(state, "y")) == (2.0, 0.5)
    assert flag(state, "yes") is True


@pytest.mark.parametrize("value", ["3", 3.0, True, None, [], {}, -1, 1 << 62])
def test_no_count_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"got n=.*, expected a whole number"):
        whole({"n": value}, "n")


@pytest.mark.parametrize("value", ["3", True, None, [], math.nan, math.inf])
def test_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected a number"):
        number({"n": value}, "n")


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_neither_yes_nor_no_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected true or false"):
        flag({"n": value}, "n")


def test_what_is_not_there_is_a_key_error() -> None:
    for get in (whole, number, flag):
        with pytest.raises(KeyError):
            get({}, "n")
