"""One change to one unit: what it says, how it is written, and what it does to codes."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mxd.errors import UserError
from mxd.layers.codes import Codes

MAX_EDITS = 1024
"""Conditional edits that a layer may have: each is looked up at every token."""
GRAMMAR = "UNIT (scale FACTOR | remove | replace-by UNIT) [where UNIT | unless UNIT]"
_PATTERN = re.compile(
    r"(?P<unit>\d{1,18})\s+"
    r"(?:scale\s+(?P<scale>\S+)|(?P<remove>remove)|replace-by\s+(?P<other>\d{1,18}))"
    r"(?:\s+(?:where\s+(?P<where>\d{1,18})|unless\s+(?P<unless>\d{1,18})))?"
)


@dataclass(frozen=True)
class Edit:
    """Scale, remove or replace what one unit contributes, everywhere or where another is active.

    Exactly one of `scale`, `remove` and `replace_by` is given, and at most one condition.
    """

    unit: int
    """The unit."""
    scale: int | float | None = None
    """Factor of its contribution; 0 silences the unit, which keeps its slot among the K."""
    remove: bool = False
    """Take it away: the gate never chooses it, so its slot goes to the next best unit. Under a
    condition, and for a shared expert of an MxD, the same as a scale of 0."""
    replace_by: int | None = None
    """Unit whose modulator or decoder row it contributes with, at its own coefficient."""
    where: int | None = None
    """Only at tokens where this unit is active."""
    unless: int | None = None
    """Only at tokens where this unit is not active."""

    def __post_init__(self) -> None:
        for name in ("unit", "replace_by", "where", "unless"):
            value = getattr(self, name)
            if name == "unit" or value is not None:
                _check_unit(name, value)
        if type(self.remove) is not bool:
            raise UserError(f"got remove={self.remove!r}, expected true or false")
        if self.scale is not None and not _is_finite(self.scale):
            raise UserError(f"got scale={self.scale!r}, expected a finite number, such as 0")
        if (self.scale is not None) + self.remove + (self.replace_by is not None) != 1:
            raise UserError(
                f"got an edit of unit {self.unit} with scale={self.scale}, remove={self.remove} "
                f"and replace_by={self.replace_by}, expected exactly one of the three"
            )
        if self.where is not None and self.unless is not None:
            raise UserError(
                f"got where={self.where} and unless={self.unless} for unit {self.unit}, expected "
                "at most one condition; give two edits"
            )

    @classmethod
    def parse(cls, text: str) -> "Edit":
        """An edit as a person writes it, such as `21 scale 0.5 where 7`; `str` writes it so.

        Raises:
            UserError: it is not of this form.
        """
        found = _PATTERN.fullmatch(text.strip())
        if found is None:
            raise UserError(f"got the edit {text!r:.80}, expected {GRAMMAR}")
        factor = found["scale"]
        try:
            scale = None if factor is None else float(factor)
        except ValueError:
            raise UserError(
                f"got the edit {text!r}, whose factor is no number: {GRAMMAR}"
            ) from None
        numbers = {"replace_by": "other", "where": "where", "unless": "unless"}
        given = {name: int(found[key]) for name, key in numbers.items() if found[key] is not None}
        return cls(int(found["unit"]), scale=scale, remove=found["remove"] is not None, **given)

    def __str__(self) -> str:
        if self.scale is not None:
            what = f"scale {repr(float(self.scale)).removesuffix('.0')}"
        else:
            what = "remove" if self.remove else f"replace-by {self.replace_by}"
        if self.where is not None:
            return f"{self.unit} {what} where {self.where}"
        return f"{self.unit} {what}" + ("" if self.unless is None else f" unless {self.unless}")

    @property
    def conditional(self) -> bool:
        """Whether it depends on the token."""
        return self.where is not None or self.unless is not None

    @property
    def factor(self) -> float:
        """What the coefficient is multiplied with."""
        return 0.0 if self.remove else 1.0 if self.scale is None else float(self.scale)

    def check(self, n_units: int) -> None:
        """Make sure that a layer has every unit that is named.

        Raises:
            UserError: it has not.
        """
        for name in ("unit", "replace_by", "where", "unless"):
            value = getattr(self, name)
            if value is not None and value >= n_units:
                raise UserError(
                    f"got {name}={value} in the edit {str(self)!r}, expected a unit from 0 to "
                    f"{n_units - 1}"
                )

    def to_dict(self) -> dict[str, Any]:
        """What was given, ready for JSON."""
        given = asdict(self).items()
        return {name: value for name, value in given if value is not None and value is not False}


def _check_unit(name: str, value: Any) -> None:
    if type(value) is not int or value < 0:
        raise UserError(f"got {name}={value!r}, expected the number of a unit, from 0")


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def check_conditional(edits: Sequence[Any], n_units: int) -> None:
    """Make sure that these can be the edits of a layer's configuration.

    Raises:
        UserError: too many, one without a condition (that is a matter of weights), or a unit that
            the layer does not have.
    """
    if len(edits) > MAX_EDITS:
        raise UserError(f"got {len(edits)} conditional edits, expected at most {MAX_EDITS}")
    for edit in edits:
        if not isinstance(edit, Edit) or not edit.conditional:
            raise UserError(
                f"got {str(edit)!r} among a configuration's edits, expected edits with a "
                "condition; make the others with mxd.edited, which changes weights"
            )
        edit.check(n_units)


def edits_from_json(value: Any) -> tuple[Edit, ...]:
    """The edits of a config.json.

    Raises:
        UserError: no list of objects, too many, or fields that are unknown or out of range.
    """
    if not isinstance(value, list) or len(value) > MAX_EDITS:
        raise UserError(f"got edits that are no list of at most {MAX_EDITS} objects")
    known = set(Edit.__dataclass_fields__)
    for item in value:
        if not isinstance(item, dict) or not set(item) <= known or "unit" not in item:
            raise UserError(f"got {item!r} among edits, expected an object of {sorted(known)}")
        for name in known & set(item):  # before the dataclass, which may be type-checked
            wanted = {"scale": (int, float, type(None)), "remove": (bool,)}.get(
                name, (int,) if name == "unit" else (int, type(None))
            )
            if type(item[name]) not in wanted:
                raise UserError(f"got {name}={item[name]!r} among edits, expected another type")
    return tuple(Edit(**item) for item in value)


def with_edits(codes: Codes, edits: Iterable[Edit]) -> Codes:
    """Codes after edits, as many columns as before.

    Units and conditions are those of the codes before any edit: factors of several edits multiply,
    and of several replacements the last that holds counts. Columns need not descend any more.
    """
    values, indices = codes.values, codes.indices
    fired = codes.values > 0
    for edit in edits:
        holds = codes.indices == edit.unit
        for unit, wanted in ((edit.where, True), (edit.unless, False)):
            if unit is not None:
                active = (fired & (codes.indices == unit)).any(-1, keepdim=True)
                holds = holds & (active == wanted)
        if edit.replace_by is None:
            values = torch.where(holds, values * edit.factor, values)
        else:
            indices = indices.masked_fill(holds, edit.replace_by)
    return Codes(values, indices, codes.n_units)
