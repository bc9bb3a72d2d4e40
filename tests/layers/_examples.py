"""One small layer of every kind, and its parts at random values that no start has."""

from typing import Any

import torch

from mxd.layers import Layer, Provenance, build

D_IN, D_OUT, D_HIDDEN, UNITS, K = 5, 4, 7, 9, 3
KINDS: dict[str, dict[str, Any]] = {
    "mxd": {"architecture": "mxd"},
    "mxd-glu": {"architecture": "mxd", "glu": True, "activation": "silu"},
    "mxd-shared": {"architecture": "mxd", "options": {"shared_experts": 2}},
    "transcoder": {"architecture": "transcoder"},
    "skip-transcoder": {"architecture": "skip_transcoder"},
    "topk-autoencoder": {"architecture": "topk_autoencoder"},
    "dense-mlp": {"architecture": "dense_mlp"},
    "dense-mlp-glu": {"architecture": "dense_mlp", "glu": True},
    "mlp-transcoder": {"architecture": "mlp_transcoder"},
    "mlp-transcoder-glu": {"architecture": "mlp_transcoder", "glu": True},
}
SPARSE = {name: kind for name, kind in KINDS.items() if not name.startswith("dense")}


def fresh(kind: str, seed: int = 0, **options: Any) -> Layer:
    """A layer as training starts it."""
    torch.manual_seed(seed)
    sizes = {"d_in": D_IN, "d_out": D_OUT, "d_hidden": D_HIDDEN, "width": UNITS, "k": K}
    choices: dict[str, Any] = {"glu": False, "activation": "gelu", **KINDS[kind]}
    choices["options"] = {**choices.get("options", {}), **options}
    return build(**sizes, **choices)


def filled(kind: str, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> Layer:
    """A layer whose every parameter is random, none at zero."""
    layer = fresh(kind, seed, **options).to(dtype)
    randomise(layer)
    return layer


@torch.no_grad()
def randomise(layer: Layer) -> None:
    """Fill every parameter with normal draws."""
    for parameter in layer.parameters():
        parameter.normal_()


def inputs(layer: Layer, *batch: int) -> torch.Tensor:
    """Random inputs of the layer's width and dtype."""
    parameter = next(layer.parameters())
    return torch.randn(*batch, layer.config.d_in, dtype=parameter.dtype)


def described(layer: Layer) -> Layer:
    """The layer with every kind of provenance and both statistics filled in."""
    layer.provenance = Provenance(
        base_model="openai-community/gpt2",
        base_revision="607a30d783dfa663caf39e06633721c8d4cfcd7e",
        base_fingerprint="0123456789abcdef",
        site="transformer.h.8.mlp",
        student="student-s0",
        seed=42,
        excluded_token_ids=(50256, 3),
        training={"tokens": 480_000_000, "loss": "normalised", "lr": 1e-4},
        evaluation={"nmse": 0.125, "delta_cross_entropy": 0.0029, "tokens": 12_345},
    )
    names = ("mean_output", "mean_modulation")
    layer.statistics = {name: torch.randn(layer.config.d_out) for name in names}
    return layer
