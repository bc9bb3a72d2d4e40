"""Numbers and text as people read them."""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

NOTHING = "–"
"""Stands where a figure has no meaning."""

_PICTURES = 0x2400  # the block of Unicode that draws control characters
_JOINERS = "\u200c\u200d"  # invisible, and part of words


def number(value: Any) -> float | None:
    """The value as a float, or None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON's whole numbers have no end
        return None
    return found if math.isfinite(found) else None


def decimal(value: Any, digits: int = 3) -> str:
    """Three decimals, and two significant digits of what three decimals would not show."""
    found = number(value)
    if found is None:
        return NOTHING
    shown = (
        f"{found:.{digits}f}" if abs(found) >= 10 ** (1 - digits) or not found else f"{found:.2g}"
    )
    return shown.replace("-", "−")


def percent(value: Any) -> str:
    """A share as per cent."""
    found = number(value)
    if found is None:
        return NOTHING
    share = 100 * found
    digits = 0 if not share else 1 if abs(share) >= 1 else 2
    return f"{share:.{digits}f} %".replace("-", "−")


def count(value: Any) -> str:
    """A count with thousands set apart."""
    found = number(value)
    return NOTHING if found is None else f"{found:,.0f}".replace(",", "\u202f")


def compact(value: Any) -> str:
    """A large count in thousands, millions, billions."""
    found = number(value)
    if found is None:
        return NOTHING
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(found) >= 0.9995 * size:
            return (
                f"{found / size:.3g} {unit}"
                if found < 999.5 * size
                else f"{found / size:.0f} {unit}"
            )
    return f"{found:.0f}"


def increase(value: Any, standard_error: Any) -> str:
    """A signed increase and the half-width of its 95 % interval."""
    found, error = number(value), number(standard_error)
    if found is None:
        return NOTHING
    signed = f"{found:+.4f}".replace("-", "−")
    return signed if error is None else f"{signed} ± {1.96 * error:.4f}"


def plus_minus(mean: Any, half: Any, digits: int = 3, *, signed: bool = False) -> str:
    """A figure and the half-width of its interval, to the same decimals."""
    found, width = number(mean), number(half)
    if found is None:
        return NOTHING
    signs = f"{found:+.{digits}f}".replace("-", "−")
    shown = signs if signed else decimal(found, digits)
    if width is None:
        return shown
    least = 10**-digits
    small = 0 < width < least / 2
    return f"{shown} ± " + (f"<{least:.{digits}f}" if small else f"{width:.{digits}f}")


def visible(text: Any, limit: int = 20_000) -> str:
    """Text with control characters drawn and marks that turn its direction shown as unknown.

    A line break in a token is seen, and what somebody wrote cannot reorder the text around it.
    The middle of a text longer than `limit` is left out.
    """
    whole = str(text)
    if len(whole) > limit:
        whole = f"{whole[: limit // 2]} … {whole[-limit // 2 :]}"
    drawn = whole.replace("\r\n", "\n").replace("\n", "↵").replace("\t", "⇥")
    return "".join(_drawn(character) for character in drawn)


def one_line(text: Any, limit: int = 90) -> str:
    """Text on one line, its middle left out where it is longer than a title can be."""
    flat = " ".join(visible(text).split())
    half = (limit - 1) // 2
    return flat if len(flat) <= limit else f"{flat[:half]}…{flat[-half:]}"


def without_folders(text: Any, kept: int = 0) -> str:
    """Text without the folders of absolute paths, which mean nothing on another machine.

    Args:
        text: the text.
        kept: how many of the innermost folders to leave.
    """

    def innermost(found: re.Match[str]) -> str:
        folders = found[0].strip("/").split("/")
        return "".join(f"{folder}/" for folder in folders[len(folders) - kept :])

    return re.sub(r"(?<![\w./:])/(?:[^/\s]+/)+", innermost, str(text))


def short_names(texts: Sequence[Any]) -> list[str]:
    """Names of texts with as few folders as tell them apart."""
    deepest = max((str(text).count("/") for text in texts), default=0)
    for kept in range(deepest):
        found = [without_folders(text, kept) for text in texts]
        if len(set(found)) == len(set(map(str, texts))):
            return found
    return [str(text) for text in texts]


def _drawn(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Cc":
        return _picture(character)
    hidden = kind in ("Cf", "Zl", "Zp") and character not in _JOINERS
    return "\N{REPLACEMENT CHARACTER}" if hidden else character


def _picture(character: str) -> str:
    return chr(_PICTURES + ord(character)) if ord(character) < 0x20 else "\N{REPLACEMENT CHARACTER}"
