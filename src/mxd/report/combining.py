"""Runs that may share their tables: the same model, recipe and text, with other students."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxd.report._show import one_line
from mxd.report.published import Published, published_of
from mxd.report.reading import FAITHFULNESS, Document, RunFiles, mapping, mappings

_JOINED = ("layers", "geometry", "specialisation")
_OWN = (*_JOINED, "command", "kind", "differences", "judges", "together", "findings")


@dataclass(frozen=True)
class Group:
    """One run, or several that differ in nothing but their students."""

    runs: Sequence[RunFiles]
    """The runs."""
    documents: dict[str, Document]
    """Their results by file name; those of several runs joined where they measured alike."""
    main: str | None
    """Name of the evaluation that the group is judged by: held-out text where there is one."""

    @property
    def record(self) -> Document:
        """run.json of the first run."""
        return self.runs[0].record

    @property
    def evaluation(self) -> Document:
        """The evaluation on held-out text; empty where none was made."""
        return {} if self.main is None else self.documents[self.main]

    @property
    def model(self) -> str | None:
        """Name of the base model, without the folders it lies in."""
        name = mapping(self.record.get("base_model")).get("name")
        return None if name is None else one_line(Path(str(name)).name, 60)

    @property
    def published(self) -> Published | None:
        """The paper's numbers, where the set-up is the paper's."""
        return published_of(self.record)

    def of_kind(self, kind: str) -> dict[str, Document]:
        """The documents of one kind, by name."""
        return {name: one for name, one in self.documents.items() if one["kind"] == kind}

    def metrics(self) -> list[Document]:
        """Lines of every metrics.jsonl."""
        return [row for run in self.runs for row in run.metrics]

    def tokens_trained(self) -> Any:
        """Tokens that the students were trained on."""
        return mapping(self.record.get("data")).get("tokens_trained")


def group_runs(runs: Sequence[RunFiles], main: Document | None = None) -> list[Group]:
    """Join runs that differ in nothing but their students, in the order they are given.

    Args:
        runs: the runs.
        main: for a single run, the evaluation to judge it by.
    """
    groups: list[list[RunFiles]] = []
    for run in runs:
        for members in groups:
            if _alike(members[0], run) and not _students(run) & set().union(
                *map(_students, members)
            ):
                members.append(run)
                break
        else:
            groups.append([run])
    return [_group(members, main) for members in groups]


def _group(members: list[RunFiles], main: Document | None) -> Group:
    documents: dict[str, Document] = {}
    for run in members:
        for name, document in run.documents.items():
            key = name
            while key in documents and _measured(documents[key]) != _measured(document):
                key += f" ({run.folder.name})"
            documents[key] = _joined(documents[key], document) if key in documents else document
    if main is None:
        return Group(members, documents, _judged_by(documents))
    same = [
        name for name, one in documents.items() if _without_origin(one) == _without_origin(main)
    ]
    name = same[0] if same else "held-out"
    return Group(members, documents | {name: main | {"kind": FAITHFULNESS}}, name)


def _judged_by(documents: dict[str, Document]) -> str | None:
    found = [name for name, one in documents.items() if one["kind"] == FAITHFULNESS]
    ordered = sorted(found, key=lambda name: (name != "held-out", name.startswith("text-"), name))
    return ordered[0] if ordered else None


def _alike(one: RunFiles, other: RunFiles) -> bool:
    """Whether one's layers may stand in a table with the other's."""
    return _setting(one) == _setting(other)


def _setting(run: RunFiles) -> str:
    recipe = {k: v for k, v in mapping(run.record.get("recipe")).items() if k != "students"}
    held_out = run.documents.get(_judged_by(run.documents) or "", {})
    same = [run.record.get("base_model"), recipe, _measured(held_out), run.record.get("preset")]
    fingerprint = mapping(run.record.get("data")).get("fingerprint")
    return json.dumps([*same, fingerprint], sort_keys=True, default=str)


def _students(run: RunFiles) -> set[tuple[str, str]]:
    listed = mappings(run.record.get("students"))
    return {(str(one.get("site")), str(one.get("name"))) for one in listed}


def _measured(document: Document) -> str:
    """What two documents must have in common for their layers to stand side by side."""
    same = {key: value for key, value in document.items() if key not in _OWN}
    return json.dumps(same, sort_keys=True, default=str)


def _without_origin(document: Document) -> Document:
    return {key: value for key, value in document.items() if key not in ("kind", "command")}


def _joined(one: Document, other: Document) -> Document:
    lists = {
        key: [*mappings(one.get(key)), *mappings(other.get(key))]
        for key in _OWN
        if key not in ("command", "kind") and (key in one or key in other)
    }
    commands = dict.fromkeys(str(d["command"]) for d in (one, other) if d.get("command"))
    return one | lists | {"command": "; ".join(commands)}
