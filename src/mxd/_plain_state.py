"""Plain values of a saved state: of the kind that was saved, or an error before anything runs."""

import math
from collections.abc import Mapping
from typing import Any

_MOST = 1 << 62


def whole(state: Mapping[str, Any], name: str, *, least: int = 0) -> int:
    """A count of a state.

    Args:
        state: the state.
        name: the count's key.
        least: the smallest that it can be.

    Raises:
        KeyError: it is not there.
        ValueError: it is no whole number, or too small or large for a count.
    """
    value = state[name]
    if type(value) is not int or not least <= value < _MOST:
        raise ValueError(f"got {name}={value!r:.40}, expected a whole number from {least} on")
    return value


def number(state: Mapping[str, Any], name: str) -> float:
    """A finite number of a state.

    Raises:
        KeyError: it is not there.
        ValueError: it is no number, or not finite.
    """
    value = state[name]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"got {name}={value!r:.40}, expected a number")
    return float(value)


def flag(state: Mapping[str, Any], name: str) -> bool:
    """A yes or no of a state.

    Raises:
        KeyError: it is not there.
        ValueError: it is neither.
    """
    value = state[name]
    if not isinstance(value, bool):
        raise ValueError(f"got {name}={value!r:.40}, expected true or false")
    return value
