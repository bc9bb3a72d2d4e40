"""What an attacker puts where a value was: every other type, every extreme, every trap."""

import json
import os
import re
from pathlib import Path
from typing import Any

_RAW = "@@raw:{}@@"
_RAW_FOUND = re.compile(r'"@@raw:([^"]*?)@@"')
_TWICE = "@@twice@@"


def raw(text: str) -> str:
    """A stand-in for text that `json.dumps` would not write; `written` puts the text there."""
    return _RAW.format(text)


def written(value: Any, twice: str | None = None) -> bytes:
    """JSON of a value with its stand-ins replaced; the key @@twice@@ becomes the one named."""
    text = _RAW_FOUND.sub(lambda found: found[1], json.dumps(value))
    if twice is not None:
        text = text.replace(json.dumps(_TWICE), json.dumps(twice))
    return text.encode("utf-8")


def with_twin(items: dict[str, Any], key: str) -> dict[str, Any]:
    """The object with a second value for a key, to be written with `twice`."""
    return {**items, _TWICE: items[key] if not isinstance(items[key], str) else 0}


class Trap:
    """A pickle that leaves a mark where it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


def numbers() -> list[Any]:
    """Numbers out of every range."""
    small = [0, 1, -1, 2, 7, 2**31 - 1, 2**31, 2**40, 2**53]
    large = [2**63 - 1, 2**63, 2**64, -(2**63), 10**39]
    endless = [raw("1" * 4000), raw("1" * 20_000), raw("-" + "9" * 300)]
    fractions = [0.5, -0.5, 1e-320, 1e308, raw("1e999"), raw("-1e999"), raw("-0.0"), raw("2.0")]
    none = [raw("NaN"), raw("Infinity"), raw("-Infinity")]
    return [*small, *large, *endless, *fractions, *none]


def texts(mark: Path) -> list[str]:
    """Texts that are paths, code, templates or nothing that can be printed."""
    return [
        "", "a", "mxd", "float32", "../../../../etc/passwd", "/etc/passwd", "..", ".", "a/b",
        "a\\b", "a\0b", "\ud800", "\udcff", "x" * 5000, "~nobody-there/x", "file:///etc/passwd",
        "CON", "\x1b[2J\u202e", "{{7*7}}", "{0.__class__}", "%s%n", "<script>alert(1)</script>",
        "|`](x)",
        f"__import__('os').mkdir({str(mark)!r})", f"$(mkdir {mark})", f"`mkdir {mark}`",
        f"!!python/object/apply:os.mkdir [{mark}]", "python-stdlib", "*", "**/*", "[", "1e5", "NaN",
    ]  # fmt: skip


def containers() -> list[Any]:
    """Lists and objects where a plain value was, and some that are deep or wide."""
    return [
        [], [0], ["a"], [None], [[]], [-1], [True], [2**63], [1.5], [{}], list(range(2000)),
        {}, {"a": 1}, {"": None}, {"unit": 0}, {"__class__": "os"}, {str(i): i for i in range(500)},
        raw("[" * 70 + "]" * 70), raw("[" * 900 + "]" * 900), raw("[" * 20_000),
    ]  # fmt: skip


def every_value(mark: Path) -> list[Any]:
    """All of them."""
    return [None, True, False, *numbers(), *texts(mark), *containers()]
