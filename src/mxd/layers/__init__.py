"""The layers: Mixture of Decoders, its baselines and controls."""

from pathlib import Path

from mxd.layers._dense_weights import DenseWeights
from mxd.layers._provenance import Provenance
from mxd.layers.activations import activation
from mxd.layers.base import Cost, Layer, SparseLayer
from mxd.layers.build import build
from mxd.layers.codes import Codes
from mxd.layers.config import DenseBranchConfig, LayerConfig, SparseConfig
from mxd.layers.controls import DenseMLP, DenseMLPConfig, MLPTranscoder, MLPTranscoderConfig
from mxd.layers.editing import edited
from mxd.layers.edits import Edit
from mxd.layers.matching import match_experts, match_latents
from mxd.layers.mxd import MxD, MxDConfig, mixture
from mxd.layers.registry import ARCHITECTURES, layer_class
from mxd.layers.statistics import sum_rows, take_statistics
from mxd.layers.topk_autoencoder import TopKAutoencoder, TopKAutoencoderConfig
from mxd.layers.transcoder import Transcoder, TranscoderConfig


def load(path_or_hub_id: str | Path, *, revision: str | None = None) -> Layer:
    """Load a layer of any architecture from its folder or from the hub, in evaluation mode.

    Raises:
        UserError: nothing there, another format, damaged or mis-shaped tensors.
    """
    return Layer.from_pretrained(path_or_hub_id, revision=revision)


__all__ = [
    "ARCHITECTURES",
    "Codes",
    "Cost",
    "DenseBranchConfig",
    "DenseMLP",
    "DenseMLPConfig",
    "DenseWeights",
    "Edit",
    "Layer",
    "LayerConfig",
    "MLPTranscoder",
    "MLPTranscoderConfig",
    "MxD",
    "MxDConfig",
    "Provenance",
    "SparseConfig",
    "SparseLayer",
    "TopKAutoencoder",
    "TopKAutoencoderConfig",
    "Transcoder",
    "TranscoderConfig",
    "activation",
    "build",
    "edited",
    "layer_class",
    "load",
    "match_experts",
    "match_latents",
    "mixture",
    "sum_rows",
    "take_statistics",
]
