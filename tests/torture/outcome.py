"""What a run's folder shows while it is tortured, and what it ends with."""

import json
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file


def begun_at(run: Path) -> int:
    """When the newest attempt began to train, in nanoseconds; 0 where none did."""
    return _changed_at(run / "run.json")


def writing_since(run: Path, moment: int) -> bool:
    """Whether a checkpoint is being written that was begun after a moment, in nanoseconds."""
    return any(_changed_at(path) > moment for path in run.glob("checkpoints/.step-*.new"))


def has_checkpoint(run: Path) -> bool:
    """Whether there is one."""
    return any(run.glob("checkpoints/step-*"))


def is_complete(run: Path) -> bool:
    """Whether its record says that all of it was trained."""
    return (run / "run.json").exists() and bool(
        json.loads((run / "run.json").read_text()).get("complete")
    )


def fingerprints(run: Path) -> dict[str, str]:
    """SHA-256 of every student's model.safetensors and statistics."""
    return {name: sha256(path.read_bytes()).hexdigest() for name, path in _files(run).items()}


def difference(run: Path, other: Path) -> float:
    """The largest absolute difference in any number of two runs' students and statistics."""
    files, others = _files(run), _files(other)
    assert files
    assert files.keys() == others.keys()
    largest = 0.0
    for name, path in files.items():
        tensors, wanted = load_file(path), load_file(others[name])
        assert tensors.keys() == wanted.keys()
        for key, tensor in tensors.items():
            found = (tensor.double() - wanted[key].double()).abs()
            assert torch.isfinite(found).all(), (name, key)
            largest = max(largest, float(found.max()) if found.numel() else 0.0)
    return largest


def _files(run: Path) -> dict[str, Path]:
    return {str(path.relative_to(run)): path for path in run.glob("layers/*/*/*.safetensors")}


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
