"""Means over training tokens that the evaluation refers to; kept beside a layer's weights."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mxd.layers.base import Layer
from mxd.layers.mxd import MxD

_SAMPLE_TOKENS = 65_536
_AT_ONCE = 4096
"""Rows that are widened to float64, or encoded, at one time."""


@torch.no_grad()
def take_statistics(
    layer: Layer, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]
) -> None:
    """Store the layer's means over (a sample of) these tokens in `layer.statistics`.

    `mean_output` is the mean of y (for mean-ablation); `mean_modulation`, for an MxD, the mean of
    m(x) = Cᵀa (for `static_nmse`). Both are (d_out,).
    """
    stride = max(1, len(x) // _SAMPLE_TOKENS)  # spread over all of them
    x, y = x[::stride], y[::stride]
    layer.statistics["mean_output"] = (sum_rows(y) / len(y)).float().cpu()
    if isinstance(layer, MxD):
        weights = layer.modulators
        total = torch.zeros(layer.config.d_out, dtype=torch.float64)
        for rows in x.split(_AT_ONCE):
            modulation = layer.modulation(layer.encode(rows.to(weights.device, weights.dtype)))
            total += modulation.double().sum(0).cpu()
        layer.statistics["mean_modulation"] = (total / len(x)).float()


def sum_rows(y: Float[Tensor, "tokens width"]) -> Float64[Tensor, "width"]:
    """Σ over tokens in float64, (width,), without a copy of all rows in that type."""
    total = torch.zeros(y.shape[1], dtype=torch.float64, device=y.device)
    for rows in y.split(_AT_ONCE):
        total += rows.double().sum(0)
    return total
