"""Σ_n a_n c_n over the K active units: a gather of K rows instead of a product with N."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mxd.kernels._rows import row_products, scatter_rows, weighted_rows


class _Combine(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, table)
        return weighted_rows(values, indices, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        values, indices, table = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_values = grad_table = None
        if ctx.needs_input_grad[0]:
            grad_values = row_products(grad, indices, table).to(values.dtype)
        if ctx.needs_input_grad[2]:
            grad_table = scatter_rows(values, indices, grad, table.shape[0]).to(table.dtype)
        return grad_values, None, grad_table


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

    Forward and backward cost O(tokens · k · d_out), and the gradient of the table its own size:
    it is dense. It can be differentiated once. The specification is `naive.combine`.
    """
    shape, k = values.shape[:-1], values.shape[-1]
    flat: Tensor = _Combine.apply(values.reshape(-1, k), indices.reshape(-1, k), table)
    return flat.reshape(*shape, table.shape[1])
