"""The gate's forward on a GPU: products in chunks of bounded size, of which K for a token stay."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from mxd.kernels.triton._blocks import accumulator
from mxd.kernels.triton._rows import row_products
from mxd.kernels.triton._topk import top_k_rows

_WORKSPACE = 1 << 26
"""Bytes of pre-activations that exist at one time, and of weights in another precision (64 MiB)."""
_LEAST_TOKENS = 512
"""Tokens in a matrix product, where there are as many: fewer leave a GPU idle."""

_ALIGNMENT = 128
"""Columns that the width of the workspace is a multiple of."""


def select(
    x: Float[Tensor, "tokens d_in"],
    weight: Float[Tensor, "n d_in"],
    bias: Float[Tensor, "n"],
    k: int,
    *,
    candidates_dtype: torch.dtype | None = None,
) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
    """The k largest of x Wᵀ + b for each token, in descending order, and their units; no ReLU.

    Args:
        x: inputs, (tokens, d_in).
        weight: one row for each unit, (n, d_in).
        bias: (n,).
        k: how many, 1 ≤ k ≤ n.
        candidates_dtype: a narrower dtype to choose candidates in, such as bfloat16. Then
            `candidates(k, n)` of them are kept and their pre-activations computed anew in float32
            from the weights as they are: values are exact for the units that were chosen, but a
            unit among the true k may be missed where many lie close together. None, or the
            weight's own dtype, computes everything in x's dtype.

    Returns:
        values (tokens, k) in x's dtype and indices (tokens, k), int64. Memory beyond them is
        bounded by a fixed workspace and O(tokens · k).
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        if candidates_dtype is None or candidates_dtype == weight.dtype:
            values, indices = _chosen(x, weight, bias, k)
            return values.to(x.dtype), indices
        kept = candidates(k, weight.shape[0])
        _, indices = _chosen(x.to(candidates_dtype), weight, bias, kept)
        wide = x.to(accumulator(x, weight)[0])
        exact = row_products(wide, indices, weight) + bias[indices].to(wide.dtype)
        values, places = exact.topk(k, dim=-1)
        return values.to(x.dtype), indices.gather(1, places)


def candidates(k: int, n: int) -> int:
    """How many units are kept for rescoring: half as many again as are wanted, at least 8 more."""
    return min(n, k + max(8, k // 2))


def _chosen(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Chunks of units, within each tiles of tokens; the best of the chunks so far are kept."""
    tokens, n = x.shape[0], weight.shape[0]
    if not tokens:
        return x.new_empty((0, k)), torch.empty((0, k), dtype=torch.int64, device=x.device)
    tile, chunk = tile_and_chunk(tokens, weight, x)
    workspace = x.new_empty(tile * _padded(chunk))
    best: list[tuple[Tensor, Tensor]] = []
    for first in range(0, n, chunk):
        columns = weight[first : first + chunk].to(x.dtype).T
        width = columns.shape[1]
        pre = _with_padding(workspace, width)
        some_bias = F.pad(bias[first : first + chunk], (0, pre.shape[1] - width))
        for number, start in enumerate(range(0, tokens, tile)):
            rows = x[start : start + tile]
            torch.mm(rows, columns, out=pre[: len(rows), :width])
            values, indices = top_k_rows(pre[: len(rows)], min(k, width), some_bias)
            found = values, indices.clamp_(max=width - 1) + first
            if first == 0:
                best.append(found)
            else:
                best[number] = _merged(best[number], found, k)
    return torch.cat([values for values, _ in best]), torch.cat([indices for _, indices in best])


def _padded(width: int) -> int:
    """Rows of a multiple of 128 columns: reads of 16 bytes, and no group that is cut."""
    return -(-width // _ALIGNMENT) * _ALIGNMENT


def _with_padding(workspace: Tensor, width: int) -> Tensor:
    """The workspace as rows for a product of this width, −∞ beyond it."""
    padded = _padded(width)
    rows = workspace[: len(workspace) // padded * padded].view(-1, padded)
    rows[:, width:] = -torch.inf
    return rows


def _merged(
    old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    values, indices = (torch.cat(pair, dim=1) for pair in zip(old, new, strict=True))
    best, places = values.topk(min(k, values.shape[1]), dim=-1)
    return best, indices.gather(1, places)


def tile_and_chunk(tokens: int, weight: Tensor, x: Tensor) -> tuple[int, int]:
    """Tokens and units of one product, so that workspace and converted weights stay bounded."""
    n, d_in = weight.shape
    room = _WORKSPACE // x.element_size()
    chunk = min(n, max(1, room // min(tokens, _LEAST_TOKENS) - _ALIGNMENT))
    if weight.dtype != x.dtype:
        chunk = min(chunk, max(1, room // d_in))
    if chunk < n:
        chunk = -(-n // -(-n // chunk))  # chunks of equal size
    tile = max(1, room // _padded(chunk))
    if tile < tokens:
        tile = tile // 128 * 128 or tile  # what matrix products are cut into
    return min(tokens, tile), chunk
