"""The texts of the study: one to train on, and Python and prose that share no document with it."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROSE = ("18f_blog", "digitalgov", "inaugural", "state_union", "wikitext2", "britannica_1911")
PYTHON = ("python_stdlib",)


def write_texts(corpus: Path, folder: Path) -> None:
    """Write train, python and prose as .jsonl.gz into a folder.

    The corpus is shuffled and cut into shards, and a document may have parts in several: what is
    edited away or kept comes from the last shard, without the documents that the first one knows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first, last = (corpus / f"train-0000{n}-of-00004.jsonl.gz" for n in (0, 3))
    known = {(record["source"], record["doc"]) for record in _records(first)}
    unseen = [one for one in _records(last) if (one["source"], one["doc"]) not in known]
    _write(folder / "train.jsonl.gz", list(_records(first)))
    for name, sources in (("python", PYTHON), ("prose", PROSE)):
        _write(folder / f"{name}.jsonl.gz", [one for one in unseen if one["source"] in sources])


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    """Records whose `doc` is unique beyond their source; equal bytes for equal records."""
    lines = [
        json.dumps({"text": one["text"], "doc": f"{one['source']}/{one['doc']}"}) for one in records
    ]
    path.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", compresslevel=6, mtime=0))
