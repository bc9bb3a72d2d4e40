"""A layer's tensors from its safetensors files: names, shapes and types before content."""

from pathlib import Path

import torch
from torch import Tensor

from mxd._outside_files import MissingFileError
from mxd._tensor_files import TensorFile
from mxd.errors import UserError

_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_MEANS = ("mean_output", "mean_modulation")
_REMEDY = "fetch or save the layer again"


def open_tensors(path: Path) -> TensorFile:
    """The file of a layer's weights, its header checked.

    Raises:
        UserError: no safetensors.
    """
    return TensorFile(path, remedy=_REMEDY)


def read_tensors(file: TensorFile, wanted: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Exactly the wanted tensors, read after the file's header has promised their shapes.

    Raises:
        UserError: other names, shapes or types.
    """
    file.check(wanted, says="config.json")
    return _floats(file, list(wanted))


def read_means(path: Path, d_out: int) -> dict[str, Tensor]:
    """The means over training tokens that the file holds, each (d_out,); none where it is absent.

    Raises:
        UserError: no plain file, no safetensors, or other shapes or types.
    """
    try:
        file = open_tensors(path)
    except MissingFileError:
        return {}
    names = [name for name in _MEANS if name in file.entries]
    file.check(dict.fromkeys(names, (d_out,)), says="config.json", only=False)
    return _floats(file, names)


def _floats(file: TensorFile, names: list[str]) -> dict[str, Tensor]:
    dtypes = {file.entries[name].dtype for name in names}
    if len(dtypes) > 1 or not dtypes <= _FLOATS:
        raise UserError(
            f"{file.path} has tensors of {sorted(map(str, dtypes))}, expected one of "
            f"{sorted(map(str, _FLOATS))} for all"
        )
    return {name: file.tensor(name) for name in names}
