"""Tiny layers and contexts that the tests of evaluation are made of."""

from typing import Any

import torch
from tests.helpers.tiny_models import D_MODEL, VOCABULARY

from mxd.data import Contexts
from mxd.layers import Layer, MxD, MxDConfig, build

SITE = "transformer.h.1.mlp"
ALL = ("mxd", "transcoder", "skip_transcoder", "topk_autoencoder", "dense_mlp", "mlp_transcoder")


def random_layer(architecture: str, *, seed: int = 0, **options: Any) -> Layer:
    """A layer of 20 units at K = 4 with every parameter random and no statistics."""
    torch.manual_seed(seed)
    layer = build(
        architecture, d_in=D_MODEL, d_out=D_MODEL, d_hidden=24, activation="gelu", glu=False,
        k=4, width=20, options=options,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.3)
    layer.provenance.seed = seed
    return layer.eval()


def text(rows: int = 6, length: int = 8, *, per_batch: int = 2, seed: int = 0) -> list[Contexts]:
    """Random contexts of three documents that change within rows; BOS (0) in front of each."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
    tokens[:, 0] = 0
    count = rows * length
    documents = torch.arange(count).mul(3).div(count, rounding_mode="floor").int().view(rows, -1)
    documents[:, 1:] = documents[:, 1:].clone().clamp(max=2)
    return [
        Contexts(tokens[i : i + per_batch], documents[i : i + per_batch])
        for i in range(0, rows, per_batch)
    ]


def planted_mxd(
    gate: torch.Tensor, bias: torch.Tensor, modulators: torch.Tensor, dense: MxD, k: int
) -> MxD:
    """An MxD with the encoder and decoder of a dense one, and its own gate and modulators."""
    n, d_out = modulators.shape
    layer = MxD(
        MxDConfig(
            d_in=gate.shape[1], d_out=d_out, d_hidden=dense.config.d_hidden, n_experts=n, k=k,
            activation=dense.config.activation, glu=dense.config.glu,
        )
    )  # fmt: skip
    with torch.no_grad():
        layer.encoder.load_state_dict(dense.encoder.state_dict())
        if layer.encoder_up is not None and dense.encoder_up is not None:
            layer.encoder_up.load_state_dict(dense.encoder_up.state_dict())
        layer.decoder.copy_(dense.decoder)
        layer.gate.weight.copy_(gate)
        layer.gate.bias.copy_(bias)
        layer.modulators.copy_(modulators)
        layer.bias.copy_(dense.bias)
    return layer.eval()
