"""Which precision the kernels compute in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def widen(tensor: Tensor) -> Tensor:
    """Half-precision in float32, because a unit may collect thousands of terms."""
    return tensor.float() if tensor.dtype in HALF else tensor


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """No autocast inside; on the meta device, where shapes alone are computed, there is none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype that a matrix product of x runs in, as `F.linear` has it under autocast."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype
