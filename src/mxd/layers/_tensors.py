"""Tensors from a safetensors file: everything is checked, and nothing is ever unpickled."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mxd.errors import UserError

_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


def read_tensors(path: Path, wanted: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Exactly the wanted tensors, read after the file's header has promised their shapes.

    Raises:
        UserError: no safetensors, or other names, shapes or types.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(path, found, wanted)
            tensors = {name: file.get_tensor(name) for name in wanted}
    except SafetensorError as error:
        raise UserError(_damage(path, error)) from None
    return _checked_floats(path, tensors)


def read_means(path: Path, d_out: int) -> dict[str, Tensor]:
    """The means over training tokens that the file holds, each (d_out,); none where it is absent.

    Raises:
        UserError: no safetensors, or other shapes or types.
    """
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = [n for n in file.keys() if n in ("mean_output", "mean_modulation")]  # noqa: SIM118
            shapes = {n: tuple(file.get_slice(n).get_shape()) for n in names}
            _check_shapes(path, shapes, dict.fromkeys(names, (d_out,)))
            means = {n: file.get_tensor(n) for n in names}
    except SafetensorError as error:
        raise UserError(_damage(path, error)) from None
    return _checked_floats(path, means)


def _checked_floats(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    dtypes = {t.dtype for t in tensors.values()}
    if len(dtypes) > 1 or not dtypes <= _FLOATS:
        raise UserError(
            f"{path} has tensors of {sorted(map(str, dtypes))}, expected one of "
            f"{sorted(map(str, _FLOATS))} for all"
        )
    return tensors


def _check_shapes(path: Path, found: dict[str, Any], wanted: dict[str, tuple[int, ...]]) -> None:
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        raise UserError(
            f"{path} does not fit its config.json: missing tensors {missing}, unexpected {extra}; "
            "fetch or save the layer again"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(
                f"{path}: {name} has shape {found[name]}, expected {shape} as config.json says; "
                "fetch or save the layer again"
            )


def _damage(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80" or start == b"PK\x03\x04":
        return f"{path} is a pickle, which is never read; expected safetensors; save the layer so"
    return f"{path} is damaged or truncated: expected safetensors, {error}; fetch or save it again"
