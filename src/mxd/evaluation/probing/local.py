"""Probing tasks from local JSON lines: labelled texts, or sentences of tagged words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mxd.data.readers import read_json_lines
from mxd.errors import UserError
from mxd.evaluation.probing.task import SPLITS, Example, split_by_class

ENDINGS = (".jsonl", ".jsonl.gz")


def read_examples(path: Path, seed: int) -> tuple[Example, ...]:
    """Read a task file; rows without a split are split 80/20 within each class.

    Args:
        path: JSON lines, gzipped or not: {"text", "label"} or {"tokens", "tags"}, with "split"
            (train or test) in every row or in none, and "doc" where rows belong together.
        seed: seed of the split.

    Raises:
        UserError: not such a file; the message names the line.
    """
    located = list(read_json_lines(path))
    if not located:
        raise UserError(f"got no rows in {path}, expected labelled texts or tagged words; fill it")
    reader = _sentence if _is_sentence(*located[0]) else _text
    return with_splits([reader(where, record) for where, record in located], str(path), seed)


def with_splits(examples: list[Example], source: str, seed: int) -> tuple[Example, ...]:
    """Examples with the splits they came with, or split by class where none has one.

    Raises:
        UserError: some have a split and some have not.
    """
    without = sum(not each.split for each in examples)
    if without == len(examples):
        return split_by_class(examples, seed)
    if without:
        raise UserError(
            f"got {without} of {len(examples)} rows of {source} without a split, expected a split "
            "in every row or in none; add or remove the rest"
        )
    return tuple(examples)


def label_of(where: str, value: Any, field: str) -> str:
    """A label as text.

    Raises:
        UserError: it is no text or whole number, or empty.
    """
    if type(value) is int:
        return str(value)
    if isinstance(value, str) and value.strip():
        return encodable(value)
    raise UserError(
        f"got {value!r:.40} as {field!r} in {where}, expected a name or a whole number; mend it"
    )


def encodable(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON may hold and tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_sentence(where: str, record: Any) -> bool:
    if isinstance(record, Mapping):
        if "tokens" in record:
            return True
        if "text" in record:
            return False
    got = ", ".join(map(repr, record)) if isinstance(record, Mapping) else type(record).__name__
    raise UserError(
        f"got {got or 'nothing'} in {where}, expected 'text' and 'label', or 'tokens' and 'tags'; "
        "write one JSON object with these on each line"
    )


def _text(where: str, record: Any) -> Example:
    _expect(where, record, ("text", "label"))
    if not isinstance(record["text"], str):
        raise _wrong(where, "text", record["text"], "text")
    label = label_of(where, record["label"], "label")
    return Example(encodable(record["text"]), (label,), *_common(where, record))


def _sentence(where: str, record: Any) -> Example:
    _expect(where, record, ("tokens", "tags"))
    words, tags = record["tokens"], record["tags"]
    for field, value in (("tokens", words), ("tags", tags)):
        if not isinstance(value, list):
            raise _wrong(where, field, value, "a list")
    if len(words) != len(tags) or not words:
        raise UserError(
            f"got {len(words)} tokens and {len(tags)} tags in {where}, expected a tag for each "
            "token and at least one; mend or remove that line"
        )
    for word in words:
        if not isinstance(word, str):
            raise _wrong(where, "tokens", word, "words")
    spelled = tuple(encodable(word) for word in words)
    labels = tuple(label_of(where, tag, "tags") for tag in tags)
    split, _, document = _common(where, record)
    return Example(" ".join(spelled), labels, split, spelled, document)


def _common(where: str, record: Mapping[str, Any]) -> tuple[str, tuple[str, ...], str | None]:
    split, document = record.get("split"), record.get("doc")
    if split is not None and split not in SPLITS:
        raise UserError(
            f"got split {split!r:.40} in {where}, expected 'train' or 'test'; rename it, or remove "
            "rows of other splits"
        )
    return split or "", (), None if document is None else str(document)


def _expect(where: str, record: Any, fields: tuple[str, str]) -> None:
    missing = [f for f in fields if not isinstance(record, Mapping) or record.get(f) is None]
    if missing:
        raise UserError(
            f"got no {missing[0]!r} in {where}, expected {fields[0]!r} and {fields[1]!r} in every "
            "row; add it or remove that line"
        )


def _wrong(where: str, field: str, value: Any, expected: str) -> UserError:
    return UserError(
        f"got a value of type {type(value).__name__} in {field!r} of {where}, expected {expected}; "
        "mend or remove that line"
    )
