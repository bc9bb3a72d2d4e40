"""What each part of a training step must do at least: operations counted, bytes counted.

A part's floor is the largest of four times: its operations at the machine's matrix product rate,
its bytes at the memory's bandwidth together with its random rows at their own bandwidth, and its
comparisons at the rate of reading values that are already in cache. A step's floor is the sum of
its parts' floors, as parts follow each other. Weights, gradients and optimizer state are float32
(4 bytes); activations have `element` bytes.
"""

from dataclasses import dataclass

from engine_costs.shapes import Shape

WEIGHT = 4
"""Bytes of a master weight, of its gradient, and of each of AdamW's two moments."""
INDEX = 8
"""Bytes of the index of an active unit."""


@dataclass(frozen=True)
class Part:
    """One part of a step."""

    name: str
    """What is done."""
    group: str
    """Which measured piece of the step it belongs to (`engine_costs.parts`)."""
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


def _data_sheet(name: str, bandwidth: float) -> Ceilings:
    # Dense rates: the sheets print bf16 (1,979) and TF32 (989) with sparsity, twice these. They
    # have no rate for random rows; memory's is taken, although part of the rows come from L2.
    flops = {"float32": 67e12, "tf32": 494.5e12, "bf16": 989.5e12}
    source = "data sheet (dense, SXM)"
    return Ceilings(name, source, flops, bandwidth, bandwidth, bandwidth, flops["float32"] / 2)


H200 = _data_sheet("NVIDIA H200", 4.8e12)
H100 = _data_sheet("NVIDIA H100", 3.35e12)


def step_parts(architecture: str, shape: Shape, element: int = 4) -> list[Part]:
    """The parts of one training step: forward, backward without the input's gradient, AdamW."""
    parts = [*_gate(shape, element), *_combine(shape, element)]
    if architecture == "mxd":
        parts += _dense_branch(shape, element)
        passes = 5  # read Cᵀa, Dᵀz and y; write both gradients
    else:
        passes = 3  # read the sum and y; write the gradient
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


def _gate(s: Shape, element: int) -> list[Part]:
    inputs, codes = s.tokens * s.d_in * element, s.tokens * s.k * (element + INDEX)
    weights = s.units * (s.d_in + 1) * WEIGHT
    picked = 2 * s.tokens * s.k * s.d_in
    return [
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
            batch_rows=s.tokens * s.k * s.d_in * element,
        ),
    ]


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
    encoder, decoder = s.hidden * (s.d_in + 1) * WEIGHT, s.hidden * s.d_out * WEIGHT
    inputs, outputs = s.tokens * s.d_in * element, s.tokens * s.d_out * element
    hidden = s.tokens * s.hidden * element
    encode, decode = 2 * s.tokens * s.d_in * s.hidden, 2 * s.tokens * s.hidden * s.d_out
    return [
        Part("encoder and φ", "dense_forward", encode, encoder + inputs + 2 * hidden),
        Part("decoder", "dense_forward", decode, decoder + hidden + outputs),
        Part("decoder, weight gradient", "dense_backward", decode, decoder + hidden + outputs),
        Part("decoder, gradient of z", "dense_backward", decode, decoder + hidden + outputs),
        Part("encoder, weight gradient", "dense_backward", encode, encoder + inputs + 2 * hidden),
    ]


def _skip(s: Shape, element: int) -> list[Part]:
    work = 2 * s.tokens * s.d_in * s.d_out
    moved = s.d_in * s.d_out * WEIGHT + s.tokens * (s.d_in + s.d_out) * element
    return [
        Part("skip", "dense_forward", work, moved),
        Part("skip, weight gradient", "dense_backward", work, moved),
    ]


def parameters(architecture: str, s: Shape) -> int:
    """Parameters of a layer."""
    count = s.units * (s.d_in + 1 + s.d_out) + s.d_out
    if architecture == "mxd":
        count += s.hidden * (s.d_in + 1 + s.d_out)
    return count + (s.d_in * s.d_out if architecture == "skip_transcoder" else 0)


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


def inference_weight_bytes(architecture: str | None, s: Shape, element: int = 4) -> int:
    """Bytes of weights read for one token alone; `None` is the dense MLP that a layer replaces."""
    dense = s.hidden * (s.d_in + 1 + s.d_out) + s.d_out
    if architecture is None:
        return dense * element
    count = s.units * (s.d_in + 1) + s.k * s.d_out + s.d_out
    if architecture == "mxd":
        count += dense - s.d_out
    return (count + (s.d_in * s.d_out if architecture == "skip_transcoder" else 0)) * element
