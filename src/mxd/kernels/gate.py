"""The gate: linear, ReLU and top-k that keep K of N values, forward and backward."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mxd.errors import NotANumberError, UserError
from mxd.kernels._dtypes import product_dtype, without_autocast
from mxd.kernels._select import select
from mxd.kernels.chosen import coefficient_gradients


class _Gate(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, k: int, skip: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        with without_autocast(x.device):
            values, indices = select(x, weight[skip:], bias[skip:], k, dtype)
        values, indices = values.relu_(), indices + skip if skip else indices
        ctx.save_for_backward(x, weight, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        found = coefficient_gradients(ctx.needs_input_grad, grads[0], *ctx.saved_tensors)
        return *found, None, None, None


def gate(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "n d_in"],
    bias: Float[Tensor, "n"],
    k: int,
    *,
    skip: int = 0,
    check: bool = True,
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """TopK_k(ReLU(G x + g)), the sparse coefficients a (paper, section 3).

    Args:
        x: inputs, (..., d_in).
        weight: G, one row for each unit, (n, d_in).
        bias: g, (n,).
        k: how many units may be active, 1 ≤ k ≤ n.
        skip: units at the start that are left out of the choice, and of k.
        check: refuse NaN in x; False where the caller has looked (`check_numbers`).

    Returns:
        values (..., k), in descending order and ≥ 0, and indices (..., k) of the units. Where fewer
        than k pre-activations are positive, the remaining values are 0 and their indices are valid.

    Raises:
        UserError: k out of range.
        NotANumberError: NaN in x. On an accelerator NaN goes through as NaN: looking for it would
            make every step wait for the device.

    Pre-activations exist for a tile of tokens and units at a time and none is kept: the backward
    pass touches the selected units alone. Under autocast the product runs in the autocast dtype and
    names candidates, whose values are then computed in float32: a unit can be missed where many
    pre-activations lie closer together than the autocast dtype can tell (docs/performance.md,
    "Accuracy", measures the recall). Gradients are dense and summed in float32. It can be
    differentiated once. The specification is `naive.gate`.
    """
    choice = len(weight) - skip
    if not 1 <= k <= choice:
        raise UserError(f"got k={k}, expected 1 to {choice}, the number of units to choose from")
    shape, flat = x.shape[:-1], x.reshape(-1, x.shape[-1])
    if check:
        check_numbers(x)
    values, indices = _Gate.apply(flat, weight, bias, k, skip, product_dtype(x))
    return values.reshape(*shape, k), indices.reshape(*shape, k)


def check_numbers(x: Float[Tensor, "..."]) -> None:
    """Refuse NaN in an input that is on the CPU.

    Raises:
        NotANumberError: there is some.
    """
    if x.device.type != "cpu":
        return
    # A sum is finite wherever it can be, and costs a tenth of the exact check.
    if not x.detach().sum().isfinite() and bool(x.isnan().any()):
        raise NotANumberError(
            "got NaN in a layer's input, expected numbers; look for broken weights in the model or "
            "in the layers before this one, or run the model in float32 or bfloat16"
        )
