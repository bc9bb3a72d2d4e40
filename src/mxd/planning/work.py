"""What each part of a training step must do at least: operations counted, bytes counted.

A part's floor is the largest of three times: its operations at the machine's matrix product rate,
its bytes at the memory's bandwidth together with its random rows at their own bandwidth, and its
comparisons at the rate of reading values that are already in cache. A step's floor is the sum of
its parts' floors, as parts follow each other. Weights, gradients and optimizer state are float32
(4 bytes); activations have `element` bytes.
"""

from dataclasses import dataclass

from mxd.planning.shape import DENSE, Shape, parameters

WEIGHT = 4
"""Bytes of a master weight, of its gradient, and of each of AdamW's two moments."""
INDEX = 8
"""Bytes of the index of an active unit."""
ELEMENT = {"float32": 4, "tf32": 4, "bf16": 2}
"""Bytes of an activation by the precision of the products."""


@dataclass(frozen=True)
class Part:
    """One part of a step."""

    name: str
    """What is done."""
    group: str
    """Which piece of the step it belongs to; pieces are measured one by one."""
    flops: int = 0
    """Floating-point operations, two for each multiply-add."""
    bytes: int = 0
    """Bytes that must be read or written in order, each operand once."""
    table_rows: int = 0
    """Bytes read as random rows of a table as long as N."""
    batch_rows: int = 0
    """Bytes read as random rows of the batch, which is as long as the tokens."""
    comparisons: int = 0
    """Values looked at for a selection, in cache."""


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at most, in units a second."""

    name: str
    """The machine."""
    source: str
    """Where the numbers are from: `measured`, or the data sheet."""
    flops: dict[str, float]
    """Operations of matrix products by precision."""
    bandwidth: float
    """Bytes of memory, in order."""
    table_rows: float
    """Bytes of random rows of a table as long as N."""
    batch_rows: float
    """Bytes of random rows of the batch."""
    comparisons: float
    """Values read from cache and compared."""


def step_parts(architecture: str, shape: Shape, element: int = 4) -> list[Part]:
    """The parts of one training step: forward, backward without the input's gradient, AdamW.

    Args:
        architecture: a registered name.
        shape: the layer and the tokens of the step.
        element: bytes of an activation.
    """
    parts: list[Part] = []
    passes = 3  # read the sum and y; write the gradient
    if shape.units:
        parts += [*_gate(architecture, shape, element), *_combine(shape, element)]
    if architecture in DENSE:
        parts += _dense_branch(shape, element)
    if architecture in ("mxd", "mlp_transcoder"):
        passes = 5  # read both factors or terms and y; write both gradients
    if architecture == "skip_transcoder":
        parts += _skip(shape, element)
        passes += 1
    outputs = shape.tokens * shape.d_out * element
    parts.append(Part("output and loss, both ways", "loss", bytes=passes * outputs))
    count = parameters(architecture, shape)
    parts.append(
        Part("AdamW", "optimizer", bytes=7 * WEIGHT * count)
    )  # reads w g m v, writes w m v
    return parts


def _gate(architecture: str, s: Shape, element: int) -> list[Part]:
    inputs, codes = s.tokens * s.d_in * element, s.tokens * s.k * (element + INDEX)
    weights = s.units * (s.d_in + 1) * WEIGHT
    picked, rows = 2 * s.tokens * s.k * s.d_in, s.tokens * s.k * s.d_in
    parts = [
        Part(
            "gate, product",
            "gate_forward",
            flops=2 * s.tokens * s.d_in * s.units,
            bytes=weights + inputs + codes,
        ),
        Part("gate, top-k", "gate_forward", comparisons=s.tokens * s.units),
        Part(
            "gate, weight gradient",
            "gate_backward",
            flops=picked,
            bytes=weights + codes,
            batch_rows=rows * element,
        ),
    ]
    if architecture == "topk_autoencoder":  # its input is y − bias, and the bias is learned
        sums = inputs + codes
        parts.append(
            Part("gate, input gradient", "gate_backward", picked, sums, table_rows=rows * WEIGHT)
        )
    return parts


def _combine(s: Shape, element: int) -> list[Part]:
    outputs, codes = s.tokens * s.d_out * element, s.tokens * s.k * (element + INDEX)
    rows, work = s.tokens * s.k * s.d_out, 2 * s.tokens * s.k * s.d_out
    return [
        Part("rows, sum", "combine_forward", work, outputs + codes, table_rows=rows * WEIGHT),
        Part(
            "rows, coefficient gradient",
            "combine_backward",
            work,
            outputs + codes,
            table_rows=rows * WEIGHT,
        ),
        Part(
            "rows, table gradient",
            "combine_backward",
            work,
            s.units * s.d_out * WEIGHT + codes,
            batch_rows=rows * element,
        ),
    ]


def _dense_branch(s: Shape, element: int) -> list[Part]:
    maps = 2 if s.glu else 1
    encoder, decoder = maps * s.hidden * (s.d_in + 1) * WEIGHT, s.hidden * s.d_out * WEIGHT
    inputs, outputs = s.tokens * s.d_in * element, s.tokens * s.d_out * element
    hidden = s.tokens * s.hidden * element
    encode, decode = maps * 2 * s.tokens * s.d_in * s.hidden, 2 * s.tokens * s.hidden * s.d_out
    encoded = encoder + inputs + (maps + 1) * hidden  # what goes into φ, and z
    return [
        Part("encoder and φ", "dense_forward", encode, encoded),
        Part("decoder", "dense_forward", decode, decoder + hidden + outputs),
        Part("decoder, weight gradient", "dense_backward", decode, decoder + hidden + outputs),
        Part("decoder, gradient of z", "dense_backward", decode, decoder + hidden + outputs),
        Part("encoder, weight gradient", "dense_backward", encode, encoded),
    ]


def _skip(s: Shape, element: int) -> list[Part]:
    work = 2 * s.tokens * s.d_in * s.d_out
    moved = s.d_in * s.d_out * WEIGHT + s.tokens * (s.d_in + s.d_out) * element
    return [
        Part("skip", "dense_forward", work, moved),
        Part("skip, weight gradient", "dense_backward", work, moved),
    ]


def floor_seconds(part: Part, ceilings: Ceilings, precision: str) -> float:
    """The least time that a part takes on a machine, in seconds."""
    rows = part.table_rows / ceilings.table_rows + part.batch_rows / ceilings.batch_rows
    return max(
        part.flops / ceilings.flops[precision],
        part.bytes / ceilings.bandwidth + rows,
        part.comparisons / ceilings.comparisons,
    )


def floors_by_group(parts: list[Part], ceilings: Ceilings, precision: str) -> dict[str, float]:
    """Floors in seconds, summed over the parts that are measured together."""
    found: dict[str, float] = {}
    for part in parts:
        found[part.group] = found.get(part.group, 0.0) + floor_seconds(part, ceilings, precision)
    return found
