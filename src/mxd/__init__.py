"""mxd: take a pretrained language model apart, layer by layer, into sparse experts."""

from mxd._version import __version__
from mxd.errors import UserError
from mxd.evaluation import Evaluation, evaluate, steer
from mxd.host import MLPSite, capture, find_mlps, find_site, graft, load_model, load_tokenizer
from mxd.layers import (
    Codes,
    DenseMLP,
    DenseMLPConfig,
    MLPTranscoder,
    MLPTranscoderConfig,
    MxD,
    MxDConfig,
    TopKAutoencoder,
    TopKAutoencoderConfig,
    Transcoder,
    TranscoderConfig,
    load,
    match_experts,
    mixture,
)
from mxd.training import Recipe, Run, StudentSpec, TextRecipe, fit, named_recipe, open_run

__all__ = [
    "Codes",
    "DenseMLP",
    "DenseMLPConfig",
    "Evaluation",
    "MLPSite",
    "MLPTranscoder",
    "MLPTranscoderConfig",
    "MxD",
    "MxDConfig",
    "Recipe",
    "Run",
    "StudentSpec",
    "TextRecipe",
    "TopKAutoencoder",
    "TopKAutoencoderConfig",
    "Transcoder",
    "TranscoderConfig",
    "UserError",
    "__version__",
    "capture",
    "evaluate",
    "find_mlps",
    "find_site",
    "fit",
    "graft",
    "load",
    "load_model",
    "load_tokenizer",
    "match_experts",
    "mixture",
    "named_recipe",
    "open_run",
    "steer",
]
