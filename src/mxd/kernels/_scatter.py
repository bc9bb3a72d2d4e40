"""Sum weighted rows into the units they belong to: the backward of everything that is sparse."""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _swallow_beta_notice() -> None:
    # torch says once in a process that CSR tensors are in beta; say it to nobody.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))


_swallow_beta_notice()


def widen(tensor: Tensor) -> Tensor:
    """Half-precision in float32, because a unit may collect thousands of terms."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def scatter_rows(
    coefficients: Float[Tensor, "tokens k"],
    indices: Int[Tensor, "tokens k"],
    rows: Float[Tensor, "tokens d"],
    n: int,
) -> Float[Tensor, "n d"]:
    """out[n] = Σ over the (t, j) with indices[t, j] = n of coefficients[t, j] · rows[t].

    A sparse (n × tokens) matrix times a dense one, in O(tokens · k · d). Half-precision rows are
    summed in float32.
    """
    tokens, k = indices.shape
    rows = widen(rows)
    flat = indices.reshape(-1)
    order = torch.argsort(flat, stable=True)  # stable: the order of summation never varies
    counts = torch.bincount(flat, minlength=n)
    row_starts = torch.zeros(n + 1, dtype=torch.int64, device=flat.device)
    torch.cumsum(counts, 0, out=row_starts[1:])
    values = coefficients.reshape(-1)[order].to(rows.dtype)
    columns = torch.div(order, k, rounding_mode="floor")
    if rows.device.type == "cpu" and not torch.backends.mkl.is_available():
        matrix = torch.sparse_coo_tensor(
            torch.stack([flat[order], columns]), values, size=(n, tokens), check_invariants=False
        )
    else:
        matrix = torch.sparse_csr_tensor(
            row_starts, columns, values, size=(n, tokens), check_invariants=False
        )
    with torch.autocast(rows.device.type, enabled=False):  # sparse products have no bf16 kernel
        return matrix @ rows
