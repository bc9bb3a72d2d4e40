"""The architectures by name."""

from mxd.errors import UserError
from mxd.layers.base import Layer
from mxd.layers.controls import DenseMLP, MLPTranscoder
from mxd.layers.mxd import MxD
from mxd.layers.topk_autoencoder import TopKAutoencoder
from mxd.layers.transcoder import Transcoder

ARCHITECTURES: dict[str, type[Layer]] = {
    "mxd": MxD,
    "transcoder": Transcoder,
    "skip_transcoder": Transcoder,
    "topk_autoencoder": TopKAutoencoder,
    "dense_mlp": DenseMLP,
    "mlp_transcoder": MLPTranscoder,
}


def layer_class(architecture: str) -> type[Layer]:
    """The class of an architecture.

    Raises:
        UserError: unknown; the message lists the known ones.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"got architecture {architecture!r}, expected one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[architecture]
