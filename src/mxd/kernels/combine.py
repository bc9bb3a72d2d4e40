"""Σ_n a_n c_n over the K active units: a gather of K rows instead of a product with N."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mxd.kernels._scatter import scatter_rows, widen

_TILE_ELEMENTS = 1 << 22
"""Elements of the largest temporary (16 MiB in float32); keeps the backward's gather small."""


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, table)
        return weighted_rows(values, indices, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        values, indices, table = ctx.saved_tensors
        grad = grads[0]
        grad_values = row_products(grad, indices, table) if ctx.needs_input_grad[0] else None
        grad_table = None
        if ctx.needs_input_grad[2]:
            grad_table = scatter_rows(values, indices, grad, table.shape[0]).to(table.dtype)
        return grad_values, None, grad_table


def weighted_rows(
    values: Float[Tensor, "tokens k"],
    indices: Int[Tensor, "tokens k"],
    table: Float[Tensor, "n d"],
) -> Float[Tensor, "tokens d"]:
    """Σ_j values[t, j] · table[indices[t, j]], without autograd."""
    if not len(indices):
        return table.new_zeros((0, table.shape[1]))
    return F.embedding_bag(indices, table, per_sample_weights=values.to(table.dtype), mode="sum")


def row_products(
    grad: Float[Tensor, "tokens d"],
    indices: Int[Tensor, "tokens k"],
    table: Float[Tensor, "n d"],
) -> Float[Tensor, "tokens k"]:
    """⟨grad[t], table[indices[t, j]]⟩ for the active units only."""
    tokens, k = indices.shape
    if grad.device.type == "cpu" and torch.backends.mkl.is_available() and indices.numel():
        return _sampled_products(widen(grad), indices, table).to(grad.dtype)
    out = grad.new_empty((tokens, k))  # a tile of tokens at a time
    tile = max(1, _TILE_ELEMENTS // max(1, k * table.shape[1]))
    for start in range(0, tokens, tile):
        part = slice(start, start + tile)
        rows = table[indices[part]].to(grad.dtype)
        torch.matmul(rows, grad[part].unsqueeze(-1), out=out[part].unsqueeze(-1))
    return out


def _sampled_products(
    grad: Float[Tensor, "tokens d"],
    indices: Int[Tensor, "tokens k"],
    table: Float[Tensor, "n d"],
) -> Float[Tensor, "tokens k"]:
    """The same as one sampled product grad · tableᵀ: no row is copied (on CPUs 5 to 18 times)."""
    tokens, k = indices.shape
    wanted = torch.sparse_csr_tensor(
        torch.arange(0, tokens * k + 1, k),
        indices.reshape(-1),
        grad.new_zeros(tokens * k),
        size=(tokens, table.shape[0]),
        check_invariants=False,
    )
    with torch.autocast("cpu", enabled=False):
        products = torch.sparse.sampled_addmm(wanted, grad, table.to(grad.dtype).T, beta=0.0)
    found: Tensor = products.values()
    return found.reshape(tokens, k)


def combine(
    values: Float[Tensor, "*batch k"],
    indices: Int[Tensor, "*batch k"],
    table: Float[Tensor, "n d_out"],
) -> Float[Tensor, "*batch d_out"]:
    """Cᵀa for coefficients given as K values and their units.

    Args:
        values: coefficients a_n of the active units, (..., k).
        indices: the units they belong to, (..., k), each in [0, n).
        table: one row for each unit, (n, d_out): modulators or decoder rows.

    Returns:
        Σ_j values[..., j] · table[indices[..., j]], (..., d_out), in the table's dtype.

    Forward and backward cost O(tokens · k · d_out). The specification is `naive.combine`.
    """
    shape, k = values.shape[:-1], values.shape[-1]
    flat: Tensor = _Combine.apply(values.reshape(-1, k), indices.reshape(-1, k), table)
    return flat.reshape(*shape, table.shape[1])
