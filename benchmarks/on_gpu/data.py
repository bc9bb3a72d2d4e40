"""Made-up inputs of the kernels at a shape, and the functions that contend."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import torch
from engine_costs.shapes import Shape
from torch import Tensor

from mxd.kernels import _torch_rows
from mxd.kernels import triton as triton_kernels


@dataclass(frozen=True)
class Data:
    """Inputs of every kernel; random, because zeros run faster than real data."""

    x: Tensor
    """(tokens, d_in)."""
    gate: Tensor
    """(n, d_in), scaled so that pre-activations have unit variance."""
    bias: Tensor
    """(n,)."""
    table: Tensor
    """(n, d_out)."""
    gradient: Tensor
    """(tokens, d_out)."""
    values: Tensor
    """(tokens, k)."""
    indices: Tensor
    """(tokens, k): Zipf-like, a few units much more often than others; the first one always."""


def make(shape: Shape, device: torch.device, dtype: torch.dtype = torch.float32) -> Data:
    """Inputs at a shape, the same every time."""
    generator = torch.Generator(device).manual_seed(0)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device).to(dtype)

    uniform = torch.rand(shape.tokens, shape.k, generator=generator, device=device)
    indices = (shape.units * uniform**2).long().clamp_(max=shape.units - 1)
    indices[:, 0] = 0
    return Data(
        randn(shape.tokens, shape.d_in),
        randn(shape.units, shape.d_in) / shape.d_in**0.5,
        randn(shape.units) / 10,
        randn(shape.units, shape.d_out),
        randn(shape.tokens, shape.d_out),
        randn(shape.tokens, shape.k),
        indices,
    )


def contenders(device: torch.device) -> dict[str, ModuleType]:
    """Who computes the sparse sums: PyTorch's operators and, on a GPU, Triton's kernels."""
    found: dict[str, ModuleType] = {"torch": _torch_rows}
    if device.type == "cuda" and triton_kernels.available():
        found["triton"] = triton_kernels
    return found


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """`highest`: float32 as it is; `high`: tf32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
