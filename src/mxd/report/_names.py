"""What a student's name says of it: <architecture>-k<k>-w<width>-s<seed>[-lr<rate>][-<variant>]."""

import re
from typing import Any, NamedTuple

_NAME = re.compile(
    r"(?P<architecture>[a-z0-9_]+)-k(?P<k>\d+)-w(?P<width>\d+)-s(?P<seed>\d+)"
    r"(?:-lr(?P<lr>\d+(?:\.\d+)?(?:e[-+]?\d+)?))?(?:-(?P<variant>.+))?",
    re.DOTALL,
)


class Student(NamedTuple):
    """The parts of a student's name."""

    architecture: str
    """Its architecture; the whole name where it is spelt otherwise."""
    k: int | None
    """K; None for an architecture without."""
    seed: int | None
    """Seed of its training."""
    lr: str | None
    """Learning rate, where several were tried."""
    variant: str | None
    """Label of an ablation; None for the base line."""


def parse_name(name: Any) -> Student:
    """The parts of a name; of one that is spelt otherwise, the name alone."""
    found = _NAME.fullmatch(str(name))
    if found is None:
        return Student(str(name), None, None, None, None)
    return Student(
        found["architecture"],
        int(found["k"][:9]) or None,
        int(found["seed"][:19]),
        found["lr"],
        found["variant"],
    )


def variant_of(layer: dict[str, Any]) -> str | None:
    """Label of the ablation that a layer of an evaluation belongs to."""
    return parse_name(layer.get("name")).variant
