"""Sum weighted rows into their units: sorted segments, no atomics, the same bits every time."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from mxd.kernels.triton._blocks import OPTIONS, accumulator, power_of_two

_PIECE = 512
"""Terms that one program adds up. A unit with more of them (it is active for most tokens) is cut
at the multiples of this number, so that one hot unit cannot hold up all the others."""


@triton.jit
@no_type_check
def _sum_terms(
    order,
    coefficients,
    rows,
    first,
    last,
    column,
    k,
    d,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SUM: tl.constexpr,
):
    """The weighted rows of the terms first <= position < last, added up."""
    total = tl.zeros((BLOCK_T, BLOCK_D), dtype=SUM)
    for start in range(first, last, BLOCK_T):
        position = start + tl.arange(0, BLOCK_T)
        used = position < last
        term = tl.load(order + position, mask=used, other=0)
        weight = tl.load(coefficients + term, mask=used, other=0.0).to(SUM)
        inside = used[:, None] & (column < d)[None, :]
        row = tl.load(rows + (term // k)[:, None] * d + column[None, :], mask=inside, other=0.0)
        total += weight[:, None] * row.to(SUM)
    return tl.sum(total, axis=0)


@triton.jit
@no_type_check
def _short_segments(
    order,
    coefficients,
    rows,
    starts,
    out,
    k,
    d,
    PIECE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SUM: tl.constexpr,
):
    """Units with no more terms than a piece, those with none included."""
    unit = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    first, last = tl.load(starts + unit), tl.load(starts + unit + 1)
    if last - first <= PIECE:
        total = _sum_terms(
            order, coefficients, rows, first, last, column, k, d, BLOCK_T, BLOCK_D, SUM
        )
        tl.store(out + unit * d + column, total, mask=column < d)


@triton.jit
@no_type_check
def _pieces_of_long_segments(
    order,
    coefficients,
    rows,
    units,
    starts,
    partial,
    terms,
    k,
    d,
    PIECE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SUM: tl.constexpr,
):
    """A piece meets at most two long segments: the one at its head and the one at its tail."""
    slot = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin = slot // 2 * PIECE
    end = tl.minimum(begin + PIECE, terms)
    head = tl.load(units + begin).to(tl.int64)
    tail = tl.load(units + end - 1).to(tl.int64)
    at_tail = slot % 2
    unit = tl.where(at_tail == 1, tail, head)
    first, last = tl.load(starts + unit), tl.load(starts + unit + 1)
    twice = (at_tail == 1) & (head == tail)
    if (last - first > PIECE) & (twice == 0):
        total = _sum_terms(
            order,
            coefficients,
            rows,
            tl.maximum(first, begin),
            tl.minimum(last, end),
            column,
            k,
            d,
            BLOCK_T,
            BLOCK_D,
            SUM,
        )
        tl.store(partial + slot * d + column, total, mask=column < d)


@triton.jit
@no_type_check
def _join_pieces(
    partial,
    units,
    starts,
    out,
    terms,
    d,
    PIECE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SUM: tl.constexpr,
):
    """At most one long segment begins in a piece, and then it is the one at the piece's tail."""
    piece = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin = piece * PIECE
    unit = tl.load(units + tl.minimum(begin + PIECE, terms) - 1).to(tl.int64)
    first, last = tl.load(starts + unit), tl.load(starts + unit + 1)
    if (last - first > PIECE) & (first >= begin):
        end = (last + PIECE - 1) // PIECE
        total = tl.zeros((BLOCK_T, BLOCK_D), dtype=SUM)
        for start in range(piece, end, BLOCK_T):
            part = start + tl.arange(0, BLOCK_T)
            # It fills the first piece from `first` on, and every later one from its head.
            slot = 2 * part + tl.where((part == piece) & (first > begin), 1, 0)
            inside = (part < end)[:, None] & (column < d)[None, :]
            address = partial + slot[:, None] * d + column[None, :]
            total += tl.load(address, mask=inside, other=0.0)
        tl.store(out + unit * d + column, tl.sum(total, axis=0), mask=column < d)


def scatter_rows(
    coefficients: Float[Tensor, "tokens k"],
    indices: Int[Tensor, "tokens k"],
    rows: Float[Tensor, "tokens d"],
    n: int,
) -> Float[Tensor, "n d"]:
    """out[n] = Σ over the (t, j) with indices[t, j] = n of coefficients[t, j] · rows[t].

    Terms are sorted by unit, and each program adds up one unit's for some columns: the order of
    every sum is fixed, so the same input gives the same bits. Nothing waits for the device.

    Returns:
        The sums (n, d), in float32, or in float64 where an input is float64.
    """
    (tokens, k), d = indices.shape, rows.shape[1]
    dtype, SUM = accumulator(coefficients, rows)
    terms = tokens * k
    if not terms or not d:
        return rows.new_zeros((n, d), dtype=dtype)
    units, order = indices.reshape(-1).to(torch.int32).sort(stable=True)
    bounds = torch.arange(n + 1, device=units.device, dtype=torch.int32)
    starts = torch.searchsorted(units, bounds)
    out = rows.new_empty((n, d), dtype=dtype)
    coefficients, rows = coefficients.contiguous(), rows.contiguous()
    pieces = triton.cdiv(terms, _PIECE)
    block_d = power_of_two(d, 16, 256)
    blocks = triton.cdiv(d, block_d)
    sizes = {"PIECE": _PIECE, "BLOCK_D": block_d, "SUM": SUM, **OPTIONS}
    with torch.cuda.device_of(rows):
        _short_segments[n, blocks](
            order, coefficients, rows, starts, out, k, d, BLOCK_T=_block_t(terms, n), **sizes
        )
        if pieces > 1:  # else no segment is longer than a piece
            partial = rows.new_empty((2 * pieces, d), dtype=dtype)
            _pieces_of_long_segments[2 * pieces, blocks](
                order, coefficients, rows, units, starts, partial, terms, k, d, BLOCK_T=16, **sizes
            )
            _join_pieces[pieces, blocks](partial, units, starts, out, terms, d, BLOCK_T=16, **sizes)
    return out


def _block_t(terms: int, n: int) -> int:
    """Terms that a program has in flight: about as many as a unit has on average."""
    return power_of_two(terms // n, 4, 16)
