"""One checkpoint of several processes: each says what it wrote, and the first puts it together."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

from mxd._durable_files import replace_whole
from mxd._json_files import read_json_object
from mxd.errors import CannotWriteError

PATIENCE_SECONDS = 3600.0
"""How long the first process waits for what another one has to write: as long as processes wait
for one another. One that is known to be lost is not waited for."""
SEEN_SECONDS = 30.0
"""How long a file that another process has written may take to be seen by the first one."""
_LOOK_SECONDS = 0.02
_MAX_JSON_BYTES = 64 << 20
_JOINED = ("students", "streams")
"""Lists of a checkpoint.json of which each process has entries."""


def tell(folder: Path, rank: int, said: Mapping[str, Any]) -> None:
    """Say that all files of this process are on the disk, or why they are not.

    Raises:
        CannotWriteError: the disk is full, or the folder is gone.
    """
    if not folder.is_dir():  # the first process has given this checkpoint up
        raise CannotWriteError(f"{folder} is gone, expected the folder of a checkpoint")
    text = json.dumps(said, allow_nan=False)
    # Once it has its name the first process may seal the checkpoint and rename the folder: nothing
    # may be left to be done in it. That one brings all names to the disk.
    replace_whole(_place(folder, rank), lambda place: place.write_text(text, encoding="utf-8"))


def hear(folder: Path, rank: int, deserted: Event, limit: Callable[[], float]) -> dict[str, Any]:
    """What a process said; waits for it.

    Args:
        folder: the checkpoint's folder.
        rank: the process.
        deserted: set when a process is known to be gone.
        limit: until when to wait, by `time.monotonic`; it may change meanwhile.

    Raises:
        OSError: it could not write its part, or says nothing.
    """
    path = _place(folder, rank)
    while not path.is_file():
        if deserted.wait(_LOOK_SECONDS) or monotonic() > limit():
            # It may have written its part and died after that.
            if path.is_file():
                break
            raise OSError(f"process {rank} did not write its part")
    said = read_json_object(
        path, missing=f"{path} is gone", remedy="save again", most_bytes=_MAX_JSON_BYTES
    )
    path.unlink()
    if "failure" in said:
        raise OSError(f"process {rank}: {said['failure']}")
    return said


def joined(
    content: Mapping[str, Any], files: Mapping[str, Any], told: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of checkpoint.json and its list of files, from those of all processes."""
    content, files = dict(content), dict(files)
    for said in told:
        for name in _JOINED:
            content[name] = [*content[name], *said["content"][name]]
        files |= said["files"]
    content["streams"] = sorted(content["streams"], key=lambda entry: int(entry["shard"]))
    content["students"] = _with_all_parts(content["students"])
    return content, files


def _with_all_parts(students: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each student, which names all parts of it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in students:
        first = found.setdefault((entry["site"], entry["name"]), entry)
        if first is not entry:
            first["parts"] = [*first["parts"], *entry["parts"]]
    return list(found.values())


def _place(folder: Path, rank: int) -> Path:
    return folder / f"process-{rank}.json"
