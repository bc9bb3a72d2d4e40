"""What the kernels compute, written so that it can be read at a glance.

Every step here is as wide as N, which is what the fast versions avoid.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def gate(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "n d_in"],
    bias: Float[Tensor, "n"],
    k: int,
    *,
    skip: int = 0,
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """TopK_k(ReLU(G x + g)): the k largest coefficients and the units they belong to."""
    values, indices = torch.relu(F.linear(x, weight, bias))[..., skip:].topk(k, dim=-1)
    return values, indices + skip


def combine(
    values: Float[Tensor, "*batch k"],
    indices: Int[Tensor, "*batch k"],
    table: Float[Tensor, "n d_out"],
) -> Float[Tensor, "*batch d_out"]:
    """Cᵀa: the rows of the table, weighted by the coefficients and summed."""
    return densify(values, indices, table.shape[0]) @ table


def densify(
    values: Float[Tensor, "*batch k"], indices: Int[Tensor, "*batch k"], n: int
) -> Float[Tensor, "*batch n"]:
    """The coefficient vector a ∈ Rᴺ itself; a unit named twice counts with the sum."""
    dense = values.new_zeros((*values.shape[:-1], n))
    return dense.scatter_add(-1, indices, values)
