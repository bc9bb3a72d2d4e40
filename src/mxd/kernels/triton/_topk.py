"""Exact top-k of wide rows in two levels: the best groups of units, then the best of those."""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from mxd.kernels.triton._blocks import OPTIONS, accumulator, power_of_two

_TILE = 2048
"""Elements that one program reads."""


@triton.jit
@no_type_check
def _biased(pre, bias, row, stride, column, inside, SUM: tl.constexpr, BIASED: tl.constexpr):
    """pre[row, column] + bias[column]; −∞ outside, which is never larger than what is inside."""
    value = tl.load(pre + row * stride + column, mask=inside, other=float("-inf")).to(SUM)
    if BIASED:
        value += tl.load(bias + column, mask=inside, other=0.0).to(SUM)
    return value


@triton.jit
@no_type_check
def _group_maxima(
    pre,
    bias,
    maxima,
    stride,
    n,
    groups,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    SUM: tl.constexpr,
    BIASED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    value = _biased(pre, bias, row, stride, column, column < n, SUM, BIASED)
    # The reduction may drop NaN, which has to count as largest: look for it separately.
    unordered = value != value
    largest = tl.max(tl.where(unordered, float("-inf"), value), axis=1)
    any_unordered = tl.max(unordered.to(tl.int32), axis=1)
    result = tl.where(any_unordered > 0, float("nan"), largest)
    tl.store(maxima + row * groups + group, result, mask=group < groups)


@triton.jit
@no_type_check
def _gather_members(
    pre,
    bias,
    chosen,
    members,
    stride,
    n,
    kept,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    SUM: tl.constexpr,
    BIASED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    used = place < kept * GROUP
    group = tl.load(chosen + row * kept + place // GROUP, mask=used, other=0)
    column = group * GROUP + place % GROUP
    value = _biased(pre, bias, row, stride, column, used & (column < n), SUM, BIASED)
    tl.store(members + row * kept * GROUP + place, value, mask=used)


def top_k_rows(
    pre: Float[Tensor, "tokens n"], k: int, bias: Float[Tensor, "n"] | None = None
) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
    """The k largest of each row of pre (+ bias), in descending order, and where they are.

    Exact: the k largest values of a row lie within the k groups whose maxima are largest. Values
    are those of `torch.topk`, NaN counting as largest; among equal values either may choose any.

    Args:
        pre: rows, (tokens, n).
        k: how many, 1 ≤ k ≤ n.
        bias: added to every row, in float32 or wider, before the choice.

    Returns:
        values (tokens, k), in pre's dtype, or in that of the sum where there is a bias; indices
        (tokens, k), int64.
    """
    values, indices = _two_levels(pre, k, bias)
    return values if bias is not None else values.to(pre.dtype), indices


def _two_levels(pre: Tensor, k: int, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    tokens, n = pre.shape
    group = group_size(n, k)
    dtype, SUM = accumulator(pre) if bias is None else accumulator(pre, bias)
    if not tokens or 2 * k * group > n:  # too narrow to gain anything
        wide = pre if bias is None else pre.to(dtype) + bias
        best = wide.topk(k, dim=-1)
        return best.values, best.indices
    pre = pre if pre.stride(1) == 1 else pre.contiguous()
    bias = None if bias is None else bias.contiguous()
    groups = triton.cdiv(n, group)
    maxima = pre.new_empty((tokens, groups), dtype=dtype)
    members = pre.new_empty((tokens, k * group), dtype=dtype)
    block = min(power_of_two(groups, 1, 1024), _TILE // group)
    sizes = {"GROUP": group, "SUM": SUM, "BIASED": bias is not None, **OPTIONS}
    added = pre if bias is None else bias  # never read without a bias
    with torch.cuda.device_of(pre):
        _group_maxima[tokens, triton.cdiv(groups, block)](
            pre, added, maxima, pre.stride(0), n, groups, BLOCK=block, **sizes
        )
        chosen = maxima.topk(k, dim=-1, sorted=False).indices
        block = power_of_two(k * group, 16, 1024)
        _gather_members[tokens, triton.cdiv(k * group, block)](
            pre, added, chosen, members, pre.stride(0), n, k, BLOCK=block, **sizes
        )
    values, places = members.topk(k, dim=-1)
    indices = chosen.gather(1, places // group) * group + places % group
    # The last group may reach beyond n; its padding can only be chosen as one of many −∞.
    return values, indices.clamp_(max=n - 1)


def group_size(n: int, k: int) -> int:
    """Units in a group: near √(n / k), where groups and members to look through are fewest."""
    return 1 << min(8, max(2, round(math.log2(max(1.0, n / k)) / 2)))
