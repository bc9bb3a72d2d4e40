"""The two functions where the time goes, each beside the plain version that specifies it.

`gate` and `combine` are what the layers call. `naive.gate` and `naive.combine` are their
specification and the oracle of their tests.
"""

from mxd.kernels import naive
from mxd.kernels.combine import combine
from mxd.kernels.gate import gate

__all__ = ["combine", "gate", "naive"]
