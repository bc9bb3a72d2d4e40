"""The three sparse sums that gate and combine are made of, on whatever device the tensors are."""

from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mxd.kernels import _torch_rows
from mxd.kernels._dtypes import widen


def triton_for(tensor: Tensor) -> ModuleType | None:
    """The Triton kernels, where they are installed and the tensor is on a GPU."""
    if tensor.is_cuda:
        from mxd.kernels import triton

        if triton.available():
            return triton
    return None


def _rows_for(tensor: Tensor) -> ModuleType:
    return triton_for(tensor) or _torch_rows


def weighted_rows(
    values: Float[Tensor, "tokens k"],
    indices: Int[Tensor, "tokens k"],
    table: Float[Tensor, "n d"],
) -> Float[Tensor, "tokens d"]:
    """Σ_j values[t, j] · table[indices[t, j]], in the table's dtype, without autograd."""
    found: Tensor = _rows_for(table).weighted_rows(values, indices, table)
    return found


def row_products(
    grad: Float[Tensor, "tokens d"],
    indices: Int[Tensor, "tokens k"],
    table: Float[Tensor, "n d"],
) -> Float[Tensor, "tokens k"]:
    """⟨grad[t], table[indices[t, j]]⟩ for the named units only, in grad's dtype."""
    found: Tensor = _rows_for(table).row_products(grad, indices, table)
    return found


def scatter_rows(
    coefficients: Float[Tensor, "tokens k"],
    indices: Int[Tensor, "tokens k"],
    rows: Float[Tensor, "tokens d"],
    n: int,
) -> Float[Tensor, "n d"]:
    """out[n] = Σ over the (t, j) with indices[t, j] = n of coefficients[t, j] · rows[t].

    A sparse (n × tokens) matrix times a dense one, in O(tokens · k · d + n · d). Half-precision
    rows are summed in float32, always in the same order.
    """
    found: Tensor = _rows_for(rows).scatter_rows(coefficients, indices, rows, n)
    return found


def scatter_values(
    values: Float[Tensor, "tokens k"], indices: Int[Tensor, "tokens k"], n: int
) -> Float[Tensor, "n"]:
    """out[n] = Σ over the (t, j) with indices[t, j] = n of values[t, j]."""
    if values.device.type == "cpu" and triton_for(values) is None:
        terms = widen(values).reshape(-1)
        return terms.new_zeros(n).index_add_(0, indices.reshape(-1), terms)
    # Additions of index_add_ on an accelerator have no fixed order; those of scatter_rows do.
    ones = torch.ones(len(values), 1, dtype=values.dtype, device=values.device)
    return scatter_rows(values, indices, ones, n).squeeze(-1)
