"""The shape of one layer in training: what parameters, operations and memory are counted from."""

from dataclasses import dataclass

DENSE = ("mxd", "dense_mlp", "mlp_transcoder")
"""Architectures with a dense branch of H hidden units."""


@dataclass(frozen=True)
class Shape:
    """A layer's dimensions and the tokens of a step."""

    d_in: int
    """I, width of the input (of the output, for an autoencoder)."""
    d_out: int
    """O, width of the output."""
    hidden: int
    """H, width of an MxD's dense hidden units."""
    units: int
    """N, experts or latents; 0 for a dense MLP."""
    k: int
    """K, active units for a token."""
    tokens: int
    """T, tokens in a step."""
    glu: bool = False
    """Whether the dense hidden units have the GLU form."""


def parameters(architecture: str, shape: Shape) -> int:
    """Parameters of a layer."""
    return unit_parameters(shape) + dense_parameters(architecture, shape)


def unit_parameters(shape: Shape) -> int:
    """Those that there are N rows of, which expert parallelism shards: gate and unit rows."""
    return shape.units * (shape.d_in + 1 + shape.d_out)


def dense_parameters(architecture: str, shape: Shape) -> int:
    """All others, which expert parallelism keeps whole on every rank."""
    count = shape.d_out
    if architecture in DENSE:
        encoders = 2 if shape.glu else 1
        count += shape.hidden * ((shape.d_in + 1) * encoders + shape.d_out)
    return count + (shape.d_in * shape.d_out if architecture == "skip_transcoder" else 0)
