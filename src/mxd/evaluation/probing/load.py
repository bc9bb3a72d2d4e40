"""Find a probing task by its name or path."""

import os
from pathlib import Path

from mxd.errors import UserError
from mxd.evaluation.probing.hub import HUB_TASKS, read_hub_task
from mxd.evaluation.probing.local import ENDINGS, read_examples
from mxd.evaluation.probing.task import (
    PAPER_TEXTS,
    Take,
    Task,
    check_classes,
    limited,
    split_by_class,
)

_NAME_BYTES = 200
"""Of a file's name: it becomes a part of another file's, of which a disk takes 255."""


def load_task(
    task: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    limit: int = PAPER_TEXTS,
    take: Take | None = None,
    seed: int = 42,
) -> Task:
    """Load a probing task and check that it can be probed.

    Args:
        task: `ag_news`, `github_code`, `amazon_sentiment`, `europarl` or `bias_in_bios` (the
            paper's tasks, from the hub: experimental), or a file of JSON lines, gzipped or not.
        data: a local copy of the data set of a named task.
        limit: how many texts or sentences to use, both splits together; drawn evenly.
        take: read long texts from their `first` or `last` tokens; None as the task has it.
            Sentences of tagged words are read from their first.
        seed: seed of the draws and, where the rows have no split, of the split.

    Raises:
        UserError: no such task, something wrong in its data, or too few examples of a class.
    """
    if limit < 1:
        raise UserError(f"got limit={limit}, expected at least 1; give how many texts to use")
    found = _named(str(task), data, limit, seed) if str(task) in HUB_TASKS else None
    if found is None and data is not None:
        raise UserError(
            f"got data for the task {task}, expected them for {', '.join(HUB_TASKS)} alone; give "
            "the file itself as the task"
        )
    found = found or _local(Path(task), limit, seed)
    if take is not None:
        if found.level == "token":
            raise UserError(
                f"got take={take!r} for the tagged words of {found.source}, which are read from "
                "the first; leave it out"
            )
        found = Task(**{**vars(found), "take": take})
    check_classes(found)
    return found


def _named(name: str, data: str | os.PathLike[str] | None, limit: int, seed: int) -> Task:
    hub = HUB_TASKS[name]
    copy = None if data is None else Path(data)
    return Task(
        name=name,
        source=hub.dataset if copy is None else str(copy),
        level="text",
        examples=split_by_class(read_hub_task(hub, copy, limit), seed),
        take=hub.take,
        length=hub.length,
        pool=hub.pool,
    )


def _local(path: Path, limit: int, seed: int) -> Task:
    ending = next((end for end in reversed(ENDINGS) if path.name.lower().endswith(end)), None)
    if ending is None or not path.is_file():
        raise UserError(
            f"got the task {path}, expected {', '.join(HUB_TASKS)} or an existing file of JSON "
            f"lines ({' or '.join(ENDINGS)}); choose one of these"
        )
    examples = read_examples(path, seed)
    return Task(
        name=os.fsdecode(os.fsencode(path.name[: -len(ending)])[:_NAME_BYTES]) or "task",
        source=str(path),
        level="token" if examples[0].words else "text",
        examples=limited(examples, limit, seed),
    )
