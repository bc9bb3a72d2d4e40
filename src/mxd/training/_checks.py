"""Checks of single values that the parts of a recipe share."""

import re

from mxd.errors import UserError


def one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not known."""
    if value not in known:
        raise UserError(f"got {what} {value!r}, expected one of {', '.join(known)}")


def at_least(what: str, value: int | float, least: int) -> None:
    """Refuse a number that is too small."""
    if not value >= least:  # NaN too
        raise UserError(f"got {what}={value}, expected at least {least}; raise it")


def at_most(what: str, value: int | float, most: int) -> None:
    """Refuse a number that is too large."""
    if not value <= most:  # NaN too
        raise UserError(f"got {what}={value}, expected at most {most}; lower it")


def variant_name(value: str) -> None:
    """Refuse a label that would not be one part of a student's name."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", value) or re.match(r"lr[0-9]", value):
        raise UserError(
            f"got variant {value!r}, expected lower-case letters, digits and single dashes, and "
            "not lr with a number; rename it, for example relu-encoder"
        )
