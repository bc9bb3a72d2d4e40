"""The result file: where it lies, what stands in it beside the cells, how it is kept."""

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import torch
from benchmarks.compare import machine

from mxd.training.precision import bf16_is_native

RESULTS = Path(__file__).parents[1] / "results"


def this_machine(device: str) -> dict[str, Any]:
    """What the numbers are measured on."""
    found = machine()
    if device == "cuda":
        found["accelerator"] = torch.cuda.get_device_name()
    info = Path("/proc/meminfo")
    if info.exists():
        found["memory_gb"] = round(int(info.read_text(encoding="ascii").split()[1]) / 1e6, 1)
    return found | {"bf16_native": bf16_is_native(torch.device(device))}


def machine_tag(found: dict[str, Any]) -> str:
    """A machine's name for files, such as `amd-epyc-2-threads`."""
    name = str(found.get("accelerator") or f"{found['processor']} {found['threads']} threads")
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def default_path() -> Path:
    """The result of this machine, or the newest where this machine has none."""
    own = RESULTS / f"engine-{machine_tag(this_machine('cpu'))}.json"
    others = [path for path in RESULTS.glob("engine-*.json") if "-quick-" not in path.name]
    others = [path for path in others if "cells" in json.loads(path.read_text(encoding="utf-8"))]
    others.sort(key=lambda path: path.stat().st_mtime)
    return own if own.exists() or not others else others[-1]


def start(found: dict[str, Any], command: list[str], *, all_bf16: bool) -> dict[str, Any]:
    """A result without cells yet; it says how bf16 was dealt with."""
    note = (
        "bf16 is multiplied in hardware"
        if found["bf16_native"]
        else "this processor emulates bf16 products, so that a bf16 step is slower than a float32 "
        "one; bf16 was measured "
        + ("all the same" if all_bf16 else "on the first shape alone, with fewer tokens")
    )
    return {
        "what": "Seconds of one full training step, for every contender on the same shapes.",
        "command": command,
        "date": dt.date.today().isoformat(),
        "machine": found,
        "bf16": note,
        "versions": {},
        "cells": [],
    }


def cells_to_keep(path: Path, measured: list[dict[str, object]]) -> list[dict[str, Any]]:
    """The cells of an earlier result that are not measured again."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        cell
        for cell in earlier
        if not any(all(cell.get(key) == one[key] for key in one) for one in measured)
    ]


def write(path: Path, document: dict[str, Any]) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
