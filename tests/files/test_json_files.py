"""JSON from outside: what Python's parser lets through and nobody should."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxd._json_files import json_object_or_none, parse_json, read_json_object
from mxd.errors import UserError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**38), 10**38)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def read(path: Path, **options: Any) -> dict[str, Any]:
    given = {"missing": "no such thing", "remedy": "mend it", "most_bytes": 1000, **options}
    return read_json_object(path, **given)


@given(VALUES)
def test_plain_values_come_through_as_they_are(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=True).encode()) == value


@given(st.text() | st.binary())
def test_any_text_is_parsed_or_is_a_value_error(content: str | bytes) -> None:
    try:
        parse_json(content)
    except ValueError as error:
        assert str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' twice"),
        ("[" * 65 + "]" * 65, "nested deeper than 64"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested deeper than 64"),
        ("[" * 100_000, "nested deeper|Expecting|deep"),
        ("1" * 41, "a number of 41 digits"),
        ("-" + "9" * 100_000, "digits"),
        ("1e999", "expected one that a float can hold"),
        ("[NaN]", "got NaN"),
        ("-Infinity", "got -Infinity"),
        ("[" + "[]," * 1_000_000 + "1]", "1000001 lists and objects"),
        (b"\xff", "utf-8"),
    ],
    ids=lambda value: f"{value[:12]!r}",
)
def test_what_is_no_plain_json_is_refused(content: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(content)


def test_depth_counts_values_and_not_brackets_in_texts() -> None:
    assert parse_json(json.dumps(["[" * 1000])) == ["[" * 1000]
    assert parse_json("[" + "[1]," * 500 + "1]")[-1] == 1
    assert parse_json("[" * 64 + "]" * 64)


def test_not_a_number_can_be_let_through() -> None:
    value = parse_json("[NaN, Infinity, 1e999]", finite=False)
    assert value[0] != value[0]
    assert value[1:] == [float("inf"), float("inf")]


def test_many_keys_with_one_twice_are_refused_at_once() -> None:
    keys = ",".join(f'"{i}":0' for i in range(100_000))
    with pytest.raises(ValueError, match="the key '99999' twice"):
        parse_json(f'{{{keys},"99999":1}}')


def test_errors_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with pytest.raises(UserError, match="no such thing"):
        read(path)
    for content, said in (
        ("[1]", "expected a JSON object, got list"),
        ("{", "expected JSON, .*; mend"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=said) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert json_object_or_none(path, 1000) is None
    path.write_text('{"a": 1}' + " " * 1000)
    with pytest.raises(UserError, match="has 1008 bytes, expected at most 1000"):
        read(path)


def test_pipe_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "file.json")
    with pytest.raises(UserError, match="expected a plain file"):
        read(tmp_path / "file.json")
