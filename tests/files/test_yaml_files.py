"""YAML from outside: plain values alone, in bounded time."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxd._yaml_files import read_yaml_mapping
from mxd.errors import UserError

WORDS = st.text("abcdefghij -_.:/", min_size=1, max_size=8)
PLAIN = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | WORDS | st.lists(WORDS)


def read(path: Path, content: str) -> dict[Any, Any]:
    path.write_text(content, encoding="utf-8")
    return read_yaml_mapping(path, expected="flags")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(value=st.dictionaries(WORDS, PLAIN, min_size=1))
def test_plain_mappings_come_through_as_they_are(tmp_path: Path, value: dict[str, Any]) -> None:
    assert read(tmp_path / "file.yaml", yaml.safe_dump(value)) == value


def test_dates_and_merges_stay_text(tmp_path: Path) -> None:
    found = read(tmp_path / "file.yaml", "a: 2001-99-99\nb: 2024-01-01\n=: 3\n'<<': {c: 1}\n")
    assert found == {"a": "2001-99-99", "b": "2024-01-01", "=": 3, "<<": {"c": 1}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: &x [1]\nb: *x", "got an alias"),
        ("a: &x [*x]", "got an alias"),
        ("!!python/object/apply:os.mkdir [made]", "got the tag .*os.mkdir"),
        ("a: !!int ''", "got the tag"),
        ("a: !local 1", "got the tag"),
        ("a: 1\na: 2", "a key twice"),
        ("a: {b: 1, b: 1}", "a key twice"),
        ("? [a]\n: 1", "unhashable"),
        ("a: " + "[" * 20_000, "nested deeper than 32"),
        ("a: " + "1:" * 10_000 + "1", "a number of 20001 characters"),
        ("a: 0x" + "f" * 100_000, "a number of 100002 characters"),
        ("a: " + "9" * 5000, "a number of 5000 characters"),
        ("a: 1\n---\nb: 1", "single document"),
        ("a: \0", "is not YAML"),
        ("[1]", "holds no keys, expected flags"),
        ("", "holds no keys"),
        ("# " + "x" * 200_000, "expected at most 200000"),
    ],
    ids=lambda value: f"{value[:16]!r}",
)
def test_what_is_no_plain_mapping_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read(tmp_path / "file.yaml", content)
    assert str(tmp_path / "file.yaml") in str(caught.value)
    assert not Path("made").exists()
