"""How to repeat it: model, data, seeds, versions and the whole configuration."""

from typing import Any

from mxd.report._desk import Desk
from mxd.report.blocks import Block, Section, Terms
from mxd.report.combining import Group
from mxd.report.reading import mapping, mappings


def how_to_repeat(group: Group, _desk: Desk) -> Section:
    """The record of the group's runs."""
    record = group.record
    base = mapping(record.get("base_model"))
    seeds = [seed for run in group.runs for seed in _seeds(run.record)]
    preset = {k: v for k, v in mapping(record.get("preset")).items() if k in ("name", "scale")}
    entries: list[tuple[str, Any]] = [
        ("base model", base.get("name")),
        ("revision", base.get("revision")),
        ("data fingerprint", mapping(record.get("data")).get("fingerprint")),
        ("seeds of the students", list(dict.fromkeys(seeds))),
        ("seed of the run", mapping(record.get("seeds")).get("run")),
        *([("preset", preset)] if preset else []),
        *_versions(group),
    ]
    blocks: list[Block] = [Terms(entries)]
    if record.get("recipe"):
        recipe = mapping(record["recipe"])
        rest = {key: value for key, value in recipe.items() if key != "students"}
        names = [
            one.get("name") for run in group.runs for one in mappings(run.record.get("students"))
        ]
        blocks.append(Terms([*rest.items(), ("students", names)], "Configuration"))
    return Section("How to repeat it", blocks)


def _seeds(record: dict[str, Any]) -> list[Any]:
    found = mapping(record.get("seeds")).get("students")
    return found if isinstance(found, list) else []


def _versions(group: Group) -> list[tuple[str, Any]]:
    """Once where all runs used the same software, else for each run."""
    found = [mapping(run.record.get("versions")) for run in group.runs]
    if all(one == found[0] for one in found):
        return [("software versions", found[0])]
    return [
        (f"software versions of {run.folder.name}", versions)
        for run, versions in zip(group.runs, found, strict=True)
    ]
