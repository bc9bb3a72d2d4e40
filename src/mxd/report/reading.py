"""Everything that a run's folder holds for a report; what is damaged is left out and named."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxd._json_files import json_object_or_none, parse_json
from mxd._outside_files import MissingFileError, check_below, read_plain
from mxd.errors import UserError

Document = dict[str, Any]
FAITHFULNESS = "faithfulness"
_MOST_BYTES = 256 << 20
_MOST_LINES = 2_000_000  # each becomes a dictionary, whatever it takes in the file
_CONTAINERS_PER_LINE = 2
_LISTS = ("layers", "geometry", "specialisation", "differences", "sites", "together", "findings")


@dataclass(frozen=True)
class RunFiles:
    """What a run left behind."""

    folder: Path
    """The run's folder."""
    record: Document
    """run.json."""
    documents: dict[str, Document]
    """The files of eval/ by their name without ending, each with its `kind`."""
    metrics: list[Document]
    """Lines of metrics.jsonl."""
    training: dict[tuple[str, str], Document]
    """Training summary of each layer, by site and name."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, in sentences."""

    def of_kind(self, kind: str) -> dict[str, Document]:
        """The documents of one kind, by name."""
        return {name: one for name, one in self.documents.items() if one["kind"] == kind}


def read_run_files(folder: Path, record: Document | None = None) -> RunFiles:
    """Read a run's folder.

    Args:
        folder: the run's folder.
        record: content of run.json, where it is at hand.

    Raises:
        UserError: there is no run.
    """
    if not (folder / "run.json").is_file() and record is None:
        raise UserError(f"got {folder}, expected the folder of a run, with a run.json in it")
    problems: list[str] = []
    known = _read(folder / "run.json", folder, problems) if record is None else record
    return RunFiles(
        folder,
        known,
        dict(_documents(folder / "eval", problems)),
        _lines(folder / "metrics.jsonl", problems),
        dict(_training(folder / "layers", problems)),
        problems,
    )


def mapping(value: Any) -> Document:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[Document]:
    """The mappings of a list; nothing of what is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _documents(folder: Path, problems: list[str]) -> Iterator[tuple[str, Document]]:
    for path in sorted(folder.glob("*.json")):
        content = _read(path, folder.parent, problems)
        if content:
            for key in _LISTS:
                if key in content:
                    content[key] = mappings(content[key])
            yield path.stem, content | {"kind": _kind(path.stem, content)}


def _kind(stem: str, content: Document) -> str:
    """What a file says it holds; files of earlier versions say so by their name and keys."""
    if isinstance(content.get("kind"), str):
        return str(content["kind"])
    if "base_cross_entropy" in content:
        return FAITHFULNESS
    return "units" if stem == "units" else "unknown"


def _training(folder: Path, problems: list[str]) -> Iterator[tuple[tuple[str, str], Document]]:
    for path in sorted(folder.glob("*/*/config.json")):
        summary = mapping(_read(path, folder.parent, problems).get("training"))
        yield (path.parent.parent.name, path.parent.name), summary


def _read(path: Path, run: Path, problems: list[str]) -> Document:
    try:
        check_below(path, run)
    except UserError:
        problems.append(f"{_short(path)} leads out of the run's folder and is left out.")
        return {}
    content = json_object_or_none(path, _MOST_BYTES)
    if content is not None:
        return content
    problems.append(f"{_short(path)} is damaged and left out: expected a JSON object.")
    return {}


def _lines(path: Path, problems: list[str]) -> list[Document]:
    """The rows of a log; a run that was cut off ends in half a line."""
    try:
        content = read_plain(path, _MOST_BYTES)
        check_below(path, path.parent)
    except MissingFileError:
        return []
    except UserError:
        problems.append(f"{_short(path)} cannot be read and is left out.")
        return []
    if content.count(b"\n") > _MOST_LINES or content.count(b"{") + content.count(b"[") > (
        _CONTAINERS_PER_LINE * _MOST_LINES
    ):
        problems.append(f"{_short(path)} has more than {_MOST_LINES} rows and is left out.")
        return []
    lines = content.decode("utf-8", "replace").splitlines()
    rows = [_row(line) for line in lines if line]
    damaged = sum(row is None for row in rows)
    if damaged:
        problems.append(f"{_short(path)} has {damaged} damaged of {len(lines)} lines: left out.")
    return mappings(rows)


def _row(line: str) -> Any:
    try:
        return parse_json(line, finite=False)
    except ValueError:
        return None


def _short(path: Path) -> str:
    """The last parts of a path: enough to find it, and the same on every machine."""
    return "/".join(path.parts[-2:])
