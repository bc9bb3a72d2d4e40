"""Sizes and types that the kernels share."""

import torch
import triton.language as tl
from torch import Tensor

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
"""How every kernel is compiled. Multiply-adds are fused, as they are by default today; saying so
keeps the results when the default changes."""


def power_of_two(value: int, least: int, most: int) -> int:
    """The smallest power of two that is not below value, kept between two powers of two."""
    return min(most, max(least, 1 << max(0, value - 1).bit_length()))


def accumulator(*tensors: Tensor) -> tuple[torch.dtype, tl.dtype]:
    """What sums are kept in, for PyTorch and for Triton: float64 if an input is, else float32."""
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        return torch.float64, tl.float64
    return torch.float32, tl.float32
