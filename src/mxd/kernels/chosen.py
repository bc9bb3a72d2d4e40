"""The gate's coefficients for units that were chosen elsewhere, and the gradients of any choice."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mxd.kernels._rows import scatter_rows, scatter_values, weighted_rows


def coefficient_gradients(
    needed: tuple[bool, ...],
    grad: Float[Tensor, "tokens k"],
    x: Float[Tensor, "tokens d_in"],
    weight: Float[Tensor, "n d_in"],
    values: Float[Tensor, "tokens k"],
    indices: Int[Tensor, "tokens k"],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias for ReLU(G x + g) at the chosen units; None if not needed."""
    n = weight.shape[0]
    grad = grad * (values > 0)  # ReLU passes nothing at and below zero
    grad_x = grad_weight = grad_bias = None
    if needed[0]:
        grad_x = weighted_rows(grad, indices, weight).to(x.dtype)
    if needed[1]:
        grad_weight = scatter_rows(grad, indices, x, n).to(weight.dtype)
    if needed[2]:
        grad_bias = scatter_values(grad, indices, n).to(weight.dtype)
    return grad_x, grad_weight, grad_bias


class _Chosen(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, indices: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, values, indices)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        found = coefficient_gradients(ctx.needs_input_grad, grads[0], *ctx.saved_tensors)
        return *found, None, None


def chosen(
    x: Float[Tensor, "tokens d_in"],
    weight: Float[Tensor, "n d_in"],
    bias: Float[Tensor, "n"],
    values: Float[Tensor, "tokens k"],
    indices: Int[Tensor, "tokens k"],
) -> Float[Tensor, "tokens k"]:
    """Values that `gate` gave for some units, with the gradients it would give them.

    For choices that `gate` cannot make by itself, such as over units on several machines: it names
    candidates without autograd, and what is kept of them comes here.

    Args:
        x: inputs, (tokens, d_in).
        weight: G, (n, d_in).
        bias: g, (n,).
        values: ReLU(G x + g) of the chosen units, (tokens, k); 0 for a slot that is not used, which
            then has no gradient.
        indices: the units, (tokens, k).

    Returns:
        The values. It can be differentiated once.
    """
    found: Tensor = _Chosen.apply(x, weight, bias, values, indices)
    return found
