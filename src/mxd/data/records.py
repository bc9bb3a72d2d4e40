"""From one record of a file or data set to one document."""

from collections.abc import Iterable, Mapping
from typing import Any

from mxd.data.damage import DamagedError
from mxd.data.documents import Document, text_key, token_key
from mxd.data.text_options import TextOptions
from mxd.errors import UserError

TOKEN_COLUMN = "input_ids"
_ID_LIMIT = 2**63


def wanted_columns(columns: Iterable[str], options: TextOptions, where: str) -> list[str]:
    """Those of a table's columns that are worth reading.

    Raises:
        UserError: There is neither the text column nor one of token ids.
    """
    found = list(columns)
    if options.column not in found and TOKEN_COLUMN not in found:
        raise UserError(_no_column(found, options, where))
    content = options.column if options.column in found else TOKEN_COLUMN
    return [name for name in found if name in (content, options.doc_column)]


def _no_column(found: Iterable[str], options: TextOptions, where: str) -> str:
    names = ", ".join(repr(name) for name in found) or "no columns"
    return (
        f"got {names} in {where}, expected a column {options.column!r} of text or "
        f"{TOKEN_COLUMN!r} of token ids; name the column that holds the text"
    )


def to_document(record: object, options: TextOptions, where: str) -> Document | None:
    """Make a document of a record; None where it holds nothing but white space.

    Args:
        record: A mapping from column names to values.
        options: Which columns to use.
        where: The record's place, for error messages.

    Raises:
        DamagedError: The record is not a mapping, lacks the column, or holds another type.
    """
    if not isinstance(record, Mapping):
        raise DamagedError(
            f"got {_kind(record)} in {where}, expected an object such as "
            f'{{"{options.column}": "..."}}; write one JSON object on each line'
        )
    if options.column not in record and TOKEN_COLUMN not in record:
        raise DamagedError(_no_column(record, options, where))
    column = options.column if options.column in record else TOKEN_COLUMN
    value, name = record[column], record.get(options.doc_column)
    if value is None:
        return None
    if isinstance(value, str):
        text = _encodable(value)
        if not text or text.isspace():
            return None
        return Document(text_key(text) if name is None else str(name), text)
    if _is_token_ids(value):
        return Document(token_key(value) if name is None else str(name), None, value)
    raise DamagedError(
        f"got {_kind(value)} in column {column!r} of {where}, expected text or a list of token "
        f"ids; name the column that holds the text"
    )


def _encodable(text: str) -> str:
    # JSON may hold halves of surrogate pairs, which no tokenizer accepts.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and -_ID_LIMIT <= item < _ID_LIMIT for item in value
    )


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"
