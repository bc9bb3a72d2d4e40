"""Gathers of K rows of a table: their weighted sum, and their products with a vector."""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from mxd.kernels.triton._blocks import OPTIONS, accumulator, power_of_two


@triton.jit
@no_type_check
def _weighted_rows(
    values,
    indices,
    table,
    out,
    k,
    d,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SUM: tl.constexpr,
):
    # Tokens vary fastest, so that programs that run at one time share a slice of columns: what
    # they gather from is BLOCK_D / d of the table, which the L2 cache may hold.
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_K, BLOCK_D), dtype=SUM)
    for start in range(0, k, BLOCK_K):
        slot = start + tl.arange(0, BLOCK_K)
        used = slot < k
        unit = tl.load(indices + token * k + slot, mask=used, other=0)
        weight = tl.load(values + token * k + slot, mask=used, other=0.0).to(SUM)
        inside = used[:, None] & (column < d)[None, :]
        row = tl.load(table + unit[:, None] * d + column[None, :], mask=inside, other=0.0)
        total += weight[:, None] * row.to(SUM)
    result = tl.sum(total, axis=0).to(out.dtype.element_ty)
    tl.store(out + token * d + column, result, mask=column < d)


@triton.jit
@no_type_check
def _row_products(
    grad,
    indices,
    table,
    out,
    k,
    d,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SUM: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    used = slot < k
    unit = tl.load(indices + token * k + slot, mask=used, other=0)
    total = tl.zeros((BLOCK_K, BLOCK_D), dtype=SUM)
    for start in range(0, d, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        inside = used[:, None] & (column < d)[None, :]
        row = tl.load(table + unit[:, None] * d + column[None, :], mask=inside, other=0.0)
        along = tl.load(grad + token * d + column, mask=column < d, other=0.0).to(SUM)
        total += row.to(SUM) * along[None, :]
    result = tl.sum(total, axis=1).to(out.dtype.element_ty)
    tl.store(out + token * k + slot, result, mask=used)


def weighted_rows(
    values: Float[Tensor, "tokens k"],
    indices: Int[Tensor, "tokens k"],
    table: Float[Tensor, "n d"],
) -> Float[Tensor, "tokens d"]:
    """Σ_j values[t, j] · table[indices[t, j]], in the table's dtype.

    Sums are kept in float32, or in float64 where an input is float64.
    """
    (tokens, k), d = indices.shape, table.shape[1]
    out = table.new_empty((tokens, d))
    if not out.numel():
        return out
    block_d = power_of_two(d, 16, 256)
    grid = (tokens, triton.cdiv(d, block_d))
    _launch(_weighted_rows, grid, (values, indices, table, out), k, d, block_d)
    return out


def row_products(
    grad: Float[Tensor, "tokens d"],
    indices: Int[Tensor, "tokens k"],
    table: Float[Tensor, "n d"],
) -> Float[Tensor, "tokens k"]:
    """⟨grad[t], table[indices[t, j]]⟩, in grad's dtype.

    Sums are kept in float32, or in float64 where an input is float64.
    """
    (tokens, k), d = indices.shape, table.shape[1]
    out = grad.new_empty((tokens, k))
    if not out.numel():
        return out
    grid = (tokens, triton.cdiv(k, _block_k(k)))
    _launch(_row_products, grid, (grad, indices, table, out), k, d, power_of_two(d, 16, 256))
    return out


def _block_k(k: int) -> int:
    """Rows that a program has in flight: enough to hide the latency of a gather."""
    return power_of_two(k, 1, 16)


def _launch(
    kernel: Any, grid: tuple[int, int], tensors: tuple[Tensor, ...], k: int, d: int, block_d: int
) -> None:
    with torch.cuda.device_of(tensors[-1]):
        kernel[grid](
            *(tensor.contiguous() for tensor in tensors),
            k,
            d,
            BLOCK_K=_block_k(k),
            BLOCK_D=block_d,
            SUM=accumulator(*tensors)[1],
            **OPTIONS,
        )
