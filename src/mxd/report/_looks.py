"""What an architecture is called and how it is drawn, the same in every picture and table."""

from typing import NamedTuple


class Look(NamedTuple):
    """Name and strokes of an architecture."""

    name: str
    """What people call it."""
    colour: str
    """Stroke; from Okabe and Ito's palette, which colour-blind readers can tell apart."""
    marker: str
    """Shape of its points, for readers who cannot rely on colour."""
    dashes: str
    """Line style of matplotlib."""


LOOKS = {
    "mxd": Look("MxD", "#D55E00", "o", "-"),
    "skip_transcoder": Look("skip transcoder", "#0072B2", "s", "-"),
    "transcoder": Look("transcoder", "#009E73", "^", "-"),
    "topk_autoencoder": Look("TopK autoencoder", "#B8578F", "D", "-"),
    "mlp_transcoder": Look("MLP + transcoder", "#767676", "v", ":"),
    "dense_mlp": Look("dense MLP", "#333333", "P", "--"),
}
"""Looks in the order of the tables: what is compared, then the controls."""

CONTROLS = ("mlp_transcoder", "dense_mlp")
"""Architectures that are there to judge the others by."""


def look(architecture: str) -> Look:
    """Look of an architecture; one that is not known is drawn in plain grey."""
    return LOOKS.get(architecture, Look(architecture.replace("_", " "), "#555555", "x", "-"))


def rank(architecture: str) -> int:
    """Place of an architecture in tables and keys."""
    order = list(LOOKS)
    if architecture in LOOKS:
        return order.index(architecture)
    return order.index(CONTROLS[0])
