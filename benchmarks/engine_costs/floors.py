"""What inference must read at least; a training step's floors are `mxd.planning.work`'s."""

from engine_costs.shapes import Shape


def inference_weight_bytes(architecture: str | None, s: Shape, element: int = 4) -> int:
    """Bytes of weights read for one token alone; `None` is the dense MLP that a layer replaces."""
    dense = s.hidden * (s.d_in + 1 + s.d_out) + s.d_out
    if architecture is None:
        return dense * element
    count = s.units * (s.d_in + 1) + s.k * s.d_out + s.d_out
    if architecture == "mxd":
        count += dense - s.d_out
    return (count + (s.d_in * s.d_out if architecture == "skip_transcoder" else 0)) * element
