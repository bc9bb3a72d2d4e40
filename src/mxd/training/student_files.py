"""What a checkpoint holds of a student: whole, or in parts of its units."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mxd.layers import SparseLayer
from mxd.training.checkpoints import Checkpoint
from mxd.training.student import Student

_COUNTED = "counters.silent_tokens"


def student_state(
    student: Student, number: int, files: dict[str, dict[str, Tensor]]
) -> dict[str, Any]:
    """A student's entry in checkpoint.json; its tensors are added to `files`.

    Of a student whose units are spread over processes this is one part. Parts after the first hold
    nothing but rows of units.

    Args:
        student: the student.
        number: its number in the run.
        files: tensors by the name of their file.
    """
    plain, tensors = student.state()
    entry = {"site": student.site, "name": student.name, "state": plain}
    companions = student.companions
    if companions.units is None:
        files[f"student-{number}.safetensors"] = tensors
        return {**entry, "file": f"student-{number}.safetensors"}
    file = f"student-{number}-{companions.part}.safetensors"
    if companions.part > 0:
        rows = unit_tensors(student)
        tensors = {name: tensor for name, tensor in tensors.items() if name in rows}
    files[file] = tensors
    rows_here = [companions.units.start, companions.units.stop]
    return {**entry, "parts": [{"file": file, "rows": rows_here}]}


def load_student(student: Student, entry: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Go on from a student's entry, however many parts it was saved in and is trained in now.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: it does not fit.
    """
    units = student.companions.units
    if "parts" not in entry and units is None:
        student.load_state(entry["state"], checkpoint.tensors(entry["file"]))
        return
    count = student.layer.config.n_units
    wanted = units or slice(0, count)
    parts = entry.get("parts") or [{"file": entry["file"], "rows": [0, count]}]
    parts = sorted(parts, key=lambda part: int(part["rows"][0]))
    names = unit_tensors(student)
    found: dict[str, Tensor] = {}
    pieces: dict[str, list[Tensor]] = {name: [] for name in names}
    for part in parts:
        start, stop = part["rows"]
        first, last = max(start, wanted.start), min(stop, wanted.stop)
        if start > 0 and first >= last:
            continue
        here = slice(max(0, first - start), max(0, last - start))
        tensors = checkpoint.tensors(part["file"], dict.fromkeys(names, here))
        for name, tensor in tensors.items():
            if name in pieces:
                pieces[name].append(tensor)
            else:
                found[name] = tensor
    found |= {name: torch.cat(tensors) for name, tensors in pieces.items() if tensors}
    if len(found[_COUNTED]) != wanted.stop - wanted.start:
        raise ValueError(f"got {len(found[_COUNTED])} units of {student.name}")
    student.load_state(entry["state"], found)


def unit_tensors(student: Student) -> set[str]:
    """Names of a student's tensors that have a row for each unit."""
    from mxd.training.distributed import unit_parameters

    assert isinstance(student.layer, SparseLayer)
    names = unit_parameters(student.layer)
    moments = {f"optimizer.{name}.{what}" for name in names for what in ("exp_avg", "exp_avg_sq")}
    return {f"layer.{name}" for name in names} | moments | {_COUNTED}
