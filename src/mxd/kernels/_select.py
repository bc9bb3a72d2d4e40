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
        narrower = dtype if dtype in HALF and weight.dtype not in HALF else None
        return Largest(*kernels.select(x, weight, bias, k, candidates_dtype=narrower))
    rescore = dtype in HALF and weight.dtype not in HALF
    if not rescore:
        found = _in_tiles(x.to(dtype), weight, bias, k)
        return Largest(found.values.to(x.dtype), found.indices)
    found = _in_tiles(x.to(dtype), weight, bias, min(len(weight), k + margin(k)))
    exact = row_products(widen(x), found.indices, weight) + bias[found.indices]
    values, places = exact.topk(k, dim=-1)
    return Largest(values.to(x.dtype), found.indices.gather(1, places))


def margin(k: int) -> int:
    """Candidates beyond k that a product in half precision is asked for."""
    return max(8, k // 2)


def _in_tiles(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Largest:
    """A chunk of units after the other, for a tile of tokens after the other, in x's dtype.

    A chunk's weights are converted where they have another dtype, and serve all tiles.
    """
    tile = max(1, min(len(x), _TILE_TOKENS))
    width = min(len(weight), max(_TILE_ELEMENTS // tile, 1))
    buffer = x.new_empty((tile, width))
    tiles = x.split(tile)
    held: list[list[Largest]] = [[] for _ in tiles]
    for start in range(0, len(weight), width):
        some_bias = bias[start : start + width].to(x.dtype)
        transposed = weight[start : start + width].to(x.dtype).T
        for number, rows in enumerate(tiles):
            out = buffer[: len(rows), : len(some_bias)]
            torch.addmm(some_bias, rows, transposed, out=out)
            held[number].append(_shifted(largest(out, min(k, out.shape[1])), start))
            if sum(one.values.shape[1] for one in held[number]) > max(_MERGE_COLUMNS, 2 * k):
                held[number] = [_merged(held[number], k)]
    best = [_merged(found, k) for found in held]
    values = torch.cat([one.values for one in best])
    return Largest(values, torch.cat([one.indices for one in best]))


def _shifted(found: Largest, start: int) -> Largest:
    return Largest(found.values, found.indices + start) if start else found


def _merged(found: list[Largest], k: int) -> Largest:
    if len(found) == 1:
        return found[0]
    values = torch.cat([one.values for one in found], dim=1)
    indices = torch.cat([one.indices for one in found], dim=1)
    best = largest(values, min(k, values.shape[1]))
    return Largest(best.values, indices.gather(1, best.indices))
