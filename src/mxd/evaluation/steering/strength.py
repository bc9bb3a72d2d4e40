"""How much is added to a coefficient: a number, or a multiple of the unit's own maximum."""

import math
from dataclasses import dataclass
from typing import Literal

from mxd.errors import UserError


@dataclass(frozen=True)
class Strength:
    """What is added to a unit's coefficient at every token."""

    value: int | float
    """The number."""
    unit_of: Literal["absolute", "max"] = "absolute"
    """`absolute`: added as it is (the paper's 100). `max`: in units of the largest coefficient
    that the unit has on held-out text, so that layers of different scales can be compared."""

    @classmethod
    def parse(cls, text: str) -> "Strength":
        """From `100`, or from `4x` for four times the unit's own maximum.

        Raises:
            UserError: neither.
        """
        of_maximum = text.endswith("x")
        try:
            value = float(text.removesuffix("x"))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(
                f"got strength {text!r}, expected a number such as 100, or a multiple of the "
                "unit's own maximum such as 4x"
            )
        return cls(value, "max" if of_maximum else "absolute")

    def __str__(self) -> str:
        return f"{self.value:g}{'x' if self.unit_of == 'max' else ''}"

    def of(self, maximum: int | float) -> float:
        """What to add, for a unit whose largest coefficient is `maximum`."""
        return float(self.value * maximum if self.unit_of == "max" else self.value)
