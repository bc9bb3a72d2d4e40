"""The same operations as Triton kernels, for GPUs; importable where there is no Triton.

Kernels are compiled when they are first called. Under `TRITON_INTERPRET=1`, set before Triton is
imported, they run on CPU tensors, slowly: that is how they are tested without a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxd.kernels.triton._rows import row_products, weighted_rows
    from mxd.kernels.triton._scatter import scatter_rows
    from mxd.kernels.triton._select import select
    from mxd.kernels.triton._topk import top_k_rows

__all__ = [
    "available",
    "row_products",
    "scatter_rows",
    "select",
    "top_k_rows",
    "weighted_rows",
]

_HOMES = {
    "row_products": "rows",
    "weighted_rows": "rows",
    "scatter_rows": "scatter",
    "select": "select",
    "top_k_rows": "topk",
}


def available() -> bool:
    """Whether Triton is installed; says nothing about a GPU."""
    try:
        return importlib.util.find_spec("triton") is not None
    except ValueError:  # something put None or a half-made module in its place
        return False


def __getattr__(name: str) -> Any:
    """Load an operation, and Triton with it, when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(importlib.import_module(f"{__name__}._{_HOMES[name]}"), name)
    globals()[name] = function
    return function
