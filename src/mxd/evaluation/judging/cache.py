"""Answers of judges kept on disk, so that asking the same again costs nothing."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mxd._durable_files import cannot_write
from mxd._json_files import parse_json
from mxd._outside_files import read_plain
from mxd.errors import UserError

_logger = logging.getLogger(__name__)
_MOST_BYTES = 1 << 30
_REMEDY = (
    "the answers before are kept: make room, then give the same command again, or name another "
    "cache with --cache"
)


class Answered(NamedTuple):
    """An answer that could be read, and what it took."""

    concept: float
    """The first score."""
    fluency: float
    """The second."""
    calls: int
    """Questions asked until the answer could be read."""
    prompt_tokens: int
    """Tokens of the questions."""
    completion_tokens: int
    """Tokens of the answers."""


class VerdictCache:
    """Answers by the hash of who was asked what, a JSON object on each line of a file.

    Lines that cannot be read (a crash may cut the last one short) are passed over. Only answers
    with scores are kept: what failed is asked again.

    Args:
        path: the file, made with the first answer; None keeps answers in memory alone.

    Raises:
        UserError: a file that cannot be read or written, or that holds something else.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, Answered] = {}
        if path is None:
            return
        if path.exists():
            self._read(path)
        _check_writable(path)

    def __len__(self) -> int:
        """How many answers are kept."""
        return len(self._known)

    def get(self, key: str) -> Answered | None:
        """The answer kept under a key."""
        return self._known.get(key)

    def put(self, key: str, answer: Answered, *, judge: str) -> None:
        """Keep an answer, on disk at once.

        Raises:
            CannotWriteError: the disk is full, or failing.
        """
        self._known[key] = answer
        if self._path is None:
            return
        line = json.dumps({"key": key, "judge": judge, **answer._asdict()})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                if file.tell() and not _ends_line(file):
                    line = f"\n{line}"
                file.write(f"{line}\n".encode())
        except OSError as error:
            raise cannot_write(self._path, error, _REMEDY) from error

    def _read(self, path: Path) -> None:
        try:
            lines = read_plain(path, _MOST_BYTES).decode("utf-8").splitlines()
        except ValueError as error:  # which a UserError is too
            raise UserError(
                f"got the cache {path}, which cannot be read ({error}); move it away, or name "
                "another with --cache"
            ) from None
        damaged = 0
        for line in lines:
            found = _answer(line)
            if found is None:
                damaged += 1
            else:
                self._known[found[0]] = found[1]
        if damaged > 1 and not self._known:
            raise UserError(
                f"got the cache {path}, none of whose {damaged} lines is a judge's answer; name "
                "another with --cache"
            )
        if damaged:
            _logger.warning("%s: passed over %d damaged lines", path, damaged)


def key_of(url: str, model: str, messages: Sequence[dict[str, str]]) -> str:
    """The hash of who is asked what."""
    asked = json.dumps([url, model, list(messages)], ensure_ascii=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def _answer(line: str) -> tuple[str, Answered] | None:
    try:
        entry: Any = parse_json(line)
        scores = [float(entry[name]) for name in ("concept", "fluency")]
        counts = [int(entry[name]) for name in Answered._fields[2:]]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    if not all(0 <= score <= 1 for score in scores) or not isinstance(entry.get("key"), str):
        return None
    return entry["key"], Answered(scores[0], scores[1], *counts)


def _check_writable(path: Path) -> None:
    """Refuse, before any answer is paid for, a file that none can be kept in."""
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    if not os.access(above, os.W_OK) or (above != path and not above.is_dir()):
        raise UserError(
            f"got the cache {path}, expected a file that can be written; name another with --cache"
        )


def _ends_line(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")
