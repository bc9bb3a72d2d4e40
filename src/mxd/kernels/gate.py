"""The gate: linear, ReLU and top-k that keep K of N values, forward and backward."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mxd.kernels._scatter import scatter_rows, widen
from mxd.kernels.combine import weighted_rows

_TILE_ELEMENTS = 1 << 22
"""Elements of pre-activations that exist at one time (16 MiB in float32)."""


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
        values, indices = _select(x, weight, bias, k)
        ctx.save_for_backward(x, weight, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, values, indices = ctx.saved_tensors
        n = weight.shape[0]
        grad = grads[0] * (values > 0)  # ReLU passes nothing at and below zero
        grad_x = (
            weighted_rows(grad, indices, weight).to(x.dtype) if ctx.needs_input_grad[0] else None
        )
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_weight = scatter_rows(grad, indices, x, n).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            terms = widen(grad).reshape(-1)
            grad_bias = terms.new_zeros(n).index_add_(0, indices.reshape(-1), terms)
        return grad_x, grad_weight, grad_bias, None


def _compute_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:  # as F.linear has it
        return torch.get_autocast_dtype(device)
    return x.dtype


def _select(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k of ReLU(x Wᵀ + b), a tile of tokens at a time; values in x's dtype."""
    tokens, n = x.shape[0], weight.shape[0]
    values = x.new_empty((tokens, k))
    indices = torch.empty((tokens, k), dtype=torch.int64, device=x.device)
    dtype = _compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x, transposed, bias = x.to(dtype), weight.to(dtype).T, bias.to(dtype)
        tile = max(1, _TILE_ELEMENTS // n)
        buffer = torch.empty((min(tile, tokens), n), dtype=dtype, device=x.device)
        for start in range(0, tokens, tile):
            rows = x[start : start + tile]
            pre = torch.addmm(bias, rows, transposed, out=buffer[: len(rows)])
            top = pre.topk(k, dim=-1)
            values[start : start + tile] = top.values
            indices[start : start + tile] = top.indices
    return values.relu_(), indices


def gate(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "n d_in"],
    bias: Float[Tensor, "n"],
    k: int,
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """TopK_k(ReLU(G x + g)), the sparse coefficients a (paper, section 3).

    Args:
        x: inputs, (..., d_in).
        weight: G, one row for each unit, (n, d_in).
        bias: g, (n,).
        k: how many units may be active, 1 ≤ k ≤ n.

    Returns:
        values (..., k), in descending order and ≥ 0, and indices (..., k) of the units. Where fewer
        than k pre-activations are positive, the remaining values are 0 and their indices are valid.

    Pre-activations exist for a tile of tokens at a time and none is kept: the backward pass touches
    the selected units alone. Under autocast the product runs in the autocast dtype; values come
    back in x's dtype and gradients are summed in float32. The specification is `naive.gate`.
    """
    shape = x.shape[:-1]
    values, indices = _Gate.apply(x.reshape(-1, x.shape[-1]), weight, bias, k)
    return values.reshape(*shape, k), indices.reshape(*shape, k)
