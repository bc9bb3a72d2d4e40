"""Means over training tokens that the evaluation refers to; kept beside a layer's weights."""

import torch
from jaxtyping import Float
from torch import Tensor

from mxd.layers.base import Layer
from mxd.layers.mxd import MxD

_SAMPLE_TOKENS = 65_536


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
    layer.statistics["mean_output"] = y.double().mean(0).float().cpu()
    if isinstance(layer, MxD):
        weights = layer.modulators
        total = torch.zeros(layer.config.d_out, dtype=torch.float64)
        for rows in x.split(4096):
            modulation = layer.modulation(layer.encode(rows.to(weights.device, weights.dtype)))
            total += modulation.double().sum(0).cpu()
        layer.statistics["mean_modulation"] = (total / len(x)).float()
