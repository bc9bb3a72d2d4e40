"""The two functions where the time goes, each beside the plain version that specifies it.

`gate` and `combine` are what the layers call. `naive.gate` and `naive.combine` are their
specification and the oracle of their tests. Both are made of the sparse sums in `_rows.py`, which
come in PyTorch's own operators and in Triton.
"""

from mxd.kernels import naive
from mxd.kernels.chosen import chosen
from mxd.kernels.combine import combine
from mxd.kernels.gate import check_numbers, gate

__all__ = ["check_numbers", "chosen", "combine", "gate", "naive"]
