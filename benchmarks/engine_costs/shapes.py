"""The shapes that costs are counted and measured at, and layers and data of those shapes."""

import torch
from torch import Tensor

from mxd.layers import Layer, build
from mxd.planning import Shape

ARCHITECTURES = ("mxd", "transcoder", "skip_transcoder")
UNITS = {"mxd": 21_490, "transcoder": 24_576, "skip_transcoder": 24_192}
"""Parameter-matched widths at GPT-2's shape (paper, Table 2; the skip transcoder's is matched)."""


def gpt2_shape(architecture: str, tokens: int = 4096) -> Shape:
    """The shape of GPT-2 124M in the paper's experiments: d = 768, H = 3072, K = 32."""
    return Shape(768, 768, 3072, UNITS[architecture], 32, tokens)


def small_shape(architecture: str, tokens: int = 64) -> Shape:
    """A shape that takes no time, to see that everything runs."""
    return Shape(32, 32, 64, {"mxd": 256, "transcoder": 300}.get(architecture, 290), 4, tokens)


def new_layer(architecture: str, shape: Shape, seed: int = 0) -> Layer:
    """A freshly initialised layer of a shape, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(
            architecture,
            d_in=shape.d_in,
            d_out=shape.d_out,
            d_hidden=shape.hidden,
            activation="gelu",
            glu=False,
            k=shape.k,
            width=shape.units,
        )


def batch(shape: Shape, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standard normal x (tokens, d_in) and y (tokens, d_out); costs do not depend on values."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape.tokens, shape.d_in, generator=generator)
    return x, torch.randn(shape.tokens, shape.d_out, generator=generator)
