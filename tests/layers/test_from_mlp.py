"""A dense MLP is an MxD with one always-on expert."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers.activations import ACT2FN

from mxd.layers import DenseWeights, MxD

D_IN, D_HIDDEN, D_OUT = 6, 11, 5


def weights(
    biases: bool, glu: bool, activation: str = "gelu", dtype: torch.dtype = torch.float64
) -> DenseWeights:
    torch.manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    return DenseWeights(
        encoder=draw(D_HIDDEN, D_IN),
        encoder_bias=draw(D_HIDDEN) if biases else None,
        encoder_up=draw(D_HIDDEN, D_IN) if glu else None,
        encoder_up_bias=draw(D_HIDDEN) if glu and biases else None,
        decoder=draw(D_HIDDEN, D_OUT),
        bias=draw(D_OUT) if biases else None,
        activation=activation,
    )


def dense_output(w: DenseWeights, x: Tensor) -> Tensor:
    z = ACT2FN[w.activation](x @ w.encoder.T + (0 if w.encoder_bias is None else w.encoder_bias))
    if w.encoder_up is not None:
        up = x @ w.encoder_up.T
        z = z * (up if w.encoder_up_bias is None else up + w.encoder_up_bias)
    y = z @ w.decoder
    return y if w.bias is None else y + w.bias


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu", "relu", "quick_gelu"])
@pytest.mark.parametrize("glu", [False, True], ids=["mlp", "glu"])
@pytest.mark.parametrize("biases", [False, True], ids=["no-biases", "biases"])
def test_from_mlp_equals_the_dense_mlp(biases: bool, glu: bool, activation: str) -> None:
    w = weights(biases, glu, activation)
    layer = MxD.from_mlp(w)
    for batch in ((), (7,), (2, 3), (0,)):
        x = torch.randn(*batch, D_IN, dtype=torch.float64)
        torch.testing.assert_close(layer(x), dense_output(w, x), rtol=0, atol=1e-12)


def test_from_mlp_has_one_expert_that_is_always_on() -> None:
    layer = MxD.from_mlp(weights(biases=True, glu=False))
    codes = layer.encode(100 * torch.randn(50, D_IN, dtype=torch.float64))
    assert layer.config.n_experts == layer.config.k == 1
    assert (codes.values == 1).all()
    assert (layer.modulators == 1).all()
    assert torch.equal(layer.expert_weight(0), layer.decoder)
    assert not layer.training


def test_from_mlp_without_biases_has_zero_biases() -> None:
    layer = MxD.from_mlp(weights(biases=False, glu=True))
    assert layer.encoder_up is not None
    for bias in (layer.encoder.bias, layer.encoder_up.bias, layer.bias):
        assert not bias.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_from_mlp_keeps_the_dtype(dtype: torch.dtype) -> None:
    w = weights(biases=True, glu=True, dtype=dtype)
    layer = MxD.from_mlp(w)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    x = torch.randn(7, D_IN, dtype=dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 0.1
    torch.testing.assert_close(layer(x), dense_output(w, x), rtol=tolerance, atol=tolerance)


def test_from_mlp_copies_the_weights() -> None:
    w = weights(biases=True, glu=False)
    layer = MxD.from_mlp(w)
    before = layer.encoder.weight.detach().clone()
    w.encoder.zero_()
    assert torch.equal(layer.encoder.weight, before)
    assert all(p.requires_grad for p in layer.parameters())


def test_from_mlp_accepts_a_site() -> None:
    w = weights(biases=True, glu=True)
    layer = MxD.from_mlp(SimpleNamespace(dense_weights=lambda: w))
    assert torch.equal(layer.decoder, w.decoder)
