"""The k largest pre-activations of every token, with never more than a tile of them at a time."""

import torch
from jaxtyping import Float
from torch import Tensor

from mxd.kernels._dtypes import HALF, widen
from mxd.kernels._largest import Largest, largest
from mxd.kernels._rows import row_products, triton_for

_TILE_ELEMENTS = 1 << 22
"""Elements of pre-activations that exist at one time (16 MiB in float32)."""
_TILE_TOKENS = 1024
"""Tokens of a tile: enough for a matrix product at full speed."""
_MERGE_COLUMNS = 1024
"""Candidates of a token that are collected before they are reduced to the best."""


def select(
    x: Float[Tensor, "tokens d_in"],
    weight: Float[Tensor, "n d_in"],
    bias: Float[Tensor, "n"],
    k: int,
    dtype: torch.dtype,
) -> Largest:
    """The k largest of x Wᵀ + b, before ReLU, in x's dtype; without autograd.

    Args:
        x: inputs, (tokens, d_in).
        weight: one row for each unit, (n, d_in).
        bias: (n,).
        k: 1 ≤ k ≤ n.
        dtype: what the matrix product runs in. In half precision of float32 weights it only names
            candidates, k and a margin; these are computed again in float32, and the best k stay.
    """
    kernels = triton_for(x)
    if kernels is not None:
        narrower = None if dtype == x.dtype else dtype
        return Largest(*kernels.select(x, weight, bias, k, candidates_dtype=narrower))
    rescore = dtype in HALF and weight.dtype not in HALF
    if not rescore:
        return _in_tiles(x.to(dtype), weight.to(dtype), bias.to(dtype), k, x.dtype)
    wanted = min(len(weight), k + margin(k))
    found = _in_tiles(x.to(dtype), weight.to(dtype), bias.to(dtype), wanted, dtype)
    exact = row_products(widen(x), found.indices, weight) + bias[found.indices]
    values, places = exact.topk(k, dim=-1)
    return Largest(values.to(x.dtype), found.indices.gather(1, places))


def margin(k: int) -> int:
    """Candidates beyond k that a product in half precision is asked for."""
    return max(8, k // 2)


def _in_tiles(x: Tensor, weight: Tensor, bias: Tensor, k: int, dtype: torch.dtype) -> Largest:
    """Tile after tile of tokens; values come back in `dtype`."""
    tokens, n = len(x), len(weight)
    values = x.new_empty((tokens, k), dtype=dtype)
    indices = torch.empty((tokens, k), dtype=torch.int64, device=x.device)
    tile = max(1, min(tokens, _TILE_TOKENS))
    width = min(n, max(_TILE_ELEMENTS // tile, 1))
    buffer = x.new_empty(tile * width)
    for start in range(0, tokens, tile):
        rows = x[start : start + tile]
        best = _over_units(rows, weight, bias, k, buffer[: len(rows) * width].view(-1, width))
        values[start : start + tile] = best.values
        indices[start : start + tile] = best.indices
    return Largest(values, indices)


def _over_units(rows: Tensor, weight: Tensor, bias: Tensor, k: int, buffer: Tensor) -> Largest:
    """The best k of all units for a few tokens, a chunk of units at a time."""
    held: list[Largest] = []
    for start in range(0, len(weight), buffer.shape[1]):
        part = slice(start, start + buffer.shape[1])
        out = buffer[:, : len(bias[part])]
        torch.addmm(bias[part], rows, weight[part].T, out=out)
        found = largest(out, min(k, out.shape[1]))
        held.append(Largest(found.values, found.indices + start if start else found.indices))
        if sum(one.values.shape[1] for one in held) > max(_MERGE_COLUMNS, 2 * k):
            held = [_merged(held, k)]
    return held[0] if len(held) == 1 else _merged(held, k)


def _merged(found: list[Largest], k: int) -> Largest:
    values = torch.cat([one.values for one in found], dim=1)
    indices = torch.cat([one.indices for one in found], dim=1)
    best = largest(values, min(k, values.shape[1]))
    return Largest(best.values, indices.gather(1, best.indices))
