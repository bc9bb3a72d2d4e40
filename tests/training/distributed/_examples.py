"""Layers, batches and the single process's results that ranks compare their own with."""

from collections.abc import Callable
from typing import Any

import torch
from tests.layers._examples import KINDS
from torch import Tensor, nn

from mxd.layers import SparseLayer, build

TOLERANCE = 1e-10


def example(kind: str, *, units: int, k: int, seed: int = 0, **options: Any) -> SparseLayer:
    """A layer in float64 with every parameter random; the same on every rank."""
    torch.manual_seed(seed)
    choices: dict[str, Any] = {"glu": False, "activation": "gelu", **KINDS[kind]}
    choices["options"] = {**choices.get("options", {}), **options}
    layer = build(d_in=5 if kind != "topk-autoencoder" else 4, d_out=4, d_hidden=7, width=units,
                  k=k, **choices).double()  # fmt: skip
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    assert isinstance(layer, SparseLayer)
    return layer


def batch(layer: SparseLayer, tokens: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the layer's widths; the same on every rank."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, layer.config.d_in, dtype=torch.float64, generator=generator)
    y = torch.randn(tokens, layer.config.d_out, dtype=torch.float64, generator=generator)
    return x, y


def loss_of(prediction: Tensor, y: Tensor, tokens: int) -> Tensor:
    """A sum over the given tokens of a loss whose mean over `tokens` is meant."""
    return ((prediction - y).square().sum(-1) / y.square().sum(-1)).sum() / max(1, tokens)


def gradients(layer: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Every parameter's gradient."""
    layer.zero_grad()
    loss().backward()
    return {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}


def near(got: Tensor, expected: Tensor, what: str = "") -> None:
    got, expected = got.detach(), expected.detach()
    assert got.shape == expected.shape, what
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(
        got, expected, rtol=0, atol=TOLERANCE * scale, msg=lambda words: f"{what}: {words}"
    )


def splits_of(ranks: int) -> list[tuple[int, ...]]:
    """Tokens of each rank: even, uneven, none at an end, none on most, none at all."""
    every = {
        2: [(4, 4), (5, 2), (0, 6), (6, 0), (0, 0)],
        4: [(2, 2, 2, 2), (5, 0, 1, 3), (0, 0, 0, 7), (0, 0, 0, 0)],
    }
    return every[ranks]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
