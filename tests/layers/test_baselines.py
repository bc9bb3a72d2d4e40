"""The baselines and controls compute their formulas; every sparse layer shares its verbs."""

from typing import Any

import pytest
import torch
from tests.layers._examples import D_HIDDEN, KINDS, SPARSE, UNITS, K, filled, inputs
from torch import Tensor
from torch.nn import functional as F

from mxd.errors import UserError
from mxd.layers import Codes, Layer, SparseLayer, build, take_statistics

EXACT = {"rtol": 0, "atol": 1e-10}


def latents(layer: Any, x: Tensor) -> Tensor:
    """TopK(ReLU(W_enc x + b_enc)) as a dense vector, written out."""
    top = torch.relu(F.linear(x, layer.encoder.weight, layer.encoder.bias)).topk(K, dim=-1)
    return torch.zeros(*x.shape[:-1], UNITS, dtype=x.dtype).scatter(-1, top.indices, top.values)


def mlp(layer: Any, prefix: str, x: Tensor) -> Tensor:
    """Dᵀz of the parameters of that prefix, written out."""
    encoder, up = getattr(layer, f"{prefix}encoder"), getattr(layer, f"{prefix}encoder_up")
    z = F.gelu(F.linear(x, encoder.weight, encoder.bias))
    if up is not None:
        z = z * F.linear(x, up.weight, up.bias)
    assert z.shape[-1] == D_HIDDEN
    return z @ getattr(layer, f"{prefix}decoder")


def formula(kind: str, layer: Any, x: Tensor) -> Tensor:
    if kind == "topk-autoencoder":
        return latents(layer, x - layer.bias) @ layer.decoder + layer.bias
    if kind.startswith("dense-mlp"):
        return mlp(layer, "", x) + layer.bias
    y = latents(layer, x) @ layer.decoder + layer.bias
    if kind == "skip-transcoder":
        y = y + x @ layer.skip.T
    return y + mlp(layer, "mlp_", x) if kind.startswith("mlp-") else y


@pytest.mark.parametrize("batch", [(), (6,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("mxd")])
def test_baseline_computes_its_formula_and_gradients(kind: str, batch: tuple[int, ...]) -> None:
    layer = filled(kind)
    x = inputs(layer, *batch).requires_grad_()
    weigh = torch.randn(*batch, layer.config.d_out, dtype=x.dtype)
    wanted = [x, *layer.parameters()]
    got, expected = layer(x), formula(kind, layer, x)
    torch.testing.assert_close(got, expected, **EXACT)
    fast = torch.autograd.grad((got * weigh).sum(), wanted)
    slow = torch.autograd.grad((expected * weigh).sum(), wanted)
    torch.testing.assert_close(fast, slow, **EXACT)


@pytest.mark.parametrize("kind", SPARSE)
def test_forward_is_decode_of_encode(kind: str) -> None:
    layer = filled(kind)
    assert isinstance(layer, SparseLayer)
    x = inputs(layer, 2, 3)
    assert torch.equal(layer(x), layer.decode(layer.encode(x), x))
    assert torch.equal(layer(x, 5), layer.decode(layer.encode(x, 5), x))
    without = Codes(torch.zeros(2, 3, 1).double(), torch.zeros(2, 3, 1, dtype=torch.int64))
    difference = layer(x) - layer.decode(without, x)
    torch.testing.assert_close(layer.contribution(layer.encode(x), x), difference, **EXACT)


@pytest.mark.parametrize("kind", SPARSE)
def test_units_have_a_gate_row_and_an_output_row(kind: str) -> None:
    layer = filled(kind)
    assert isinstance(layer, SparseLayer)
    assert layer.config.n_units == UNITS
    assert layer.gate_linear.weight.shape == (UNITS, layer.config.d_in)
    assert layer.unit_rows.shape == (UNITS, layer.config.d_out)


@pytest.mark.parametrize("kind", ["skip-transcoder", "mlp-transcoder"])
def test_decode_without_the_input_that_it_needs_says_so(kind: str) -> None:
    layer: Any = filled(kind)
    with pytest.raises(UserError, match=r"decode\(codes, x\)"):
        layer.decode(layer.encode(inputs(layer, 2)))


def test_autoencoder_subtracts_its_bias_from_what_it_reads() -> None:
    layer: Any = filled("topk-autoencoder")
    assert layer.reads == "output"
    x = inputs(layer, 6)
    before = layer.encode(x)
    with torch.no_grad():
        layer.bias += 3
    after = layer.encode(x + 3)
    torch.testing.assert_close(after.values, before.values, **EXACT)
    assert torch.equal(after.indices, before.indices)


@pytest.mark.parametrize("kind", KINDS)
def test_start_bias_at_puts_the_mean_into_the_output(kind: str) -> None:
    layer = filled(kind)
    mean = torch.arange(4).double()
    x = inputs(layer, 3)
    before, bias = layer(x), layer.bias.detach().clone()
    layer.start_bias_at(mean)
    assert torch.equal(layer.bias, mean)
    assert layer.bias.requires_grad
    if layer.reads == "input":  # an autoencoder's codes move with its bias
        torch.testing.assert_close(layer(x) - mean, before - bias, **EXACT)


@pytest.mark.parametrize("kind", ["mxd", "transcoder"])
def test_statistics_are_means_over_the_tokens(kind: str) -> None:
    layer: Any = filled(kind, dtype=torch.float32)
    x, y = inputs(layer, 50), torch.randn(50, 4)
    take_statistics(layer, x, y)
    expected = {"mean_output": y.mean(0)}
    if kind == "mxd":
        expected["mean_modulation"] = (layer.encode(x).dense() @ layer.modulators).mean(0).detach()
    torch.testing.assert_close(layer.statistics, expected, rtol=1e-5, atol=1e-5)


def test_build_matches_the_parameters_when_no_width_is_given() -> None:
    sizes: dict[str, Any] = {"d_in": 16, "d_out": 16, "d_hidden": 64, "activation": "gelu"}
    counts = {
        name: build(name, **sizes, glu=False, k=2, expansion=32).cost().parameters
        for name in ("transcoder", "mxd", "skip_transcoder", "topk_autoencoder", "mlp_transcoder")
    }
    assert max(counts.values()) - min(counts.values()) <= 2 * (16 + 1 + 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "mdx"}, "got architecture 'mdx', expected one of mxd, transcoder"),
        ({"activation": "gelo"}, "got activation 'gelo', expected one of .*gelu"),
        ({"activation": "prelu"}, "expected one without parameters"),
        ({"k": 0}, "got k=0, expected a whole number of at least 1"),
        ({"width": 2}, "got k=3 with 2 units, expected k between 1 and"),
        ({"d_hidden": -4}, "got d_hidden=-4"),
        ({"options": {"colour": 1}}, r"got layer options \['colour'\]"),
        ({"options": {"sparsity": "l3"}}, "got sparsity 'l3', expected one of topk, l1"),
        ({"options": {"sparsity": "l1", "random_k": True}}, "got random_k with sparsity 'l1'"),
        ({"options": {"shared_experts": 3}}, "got shared_experts=3 with k=3"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_build_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {
        "architecture": "mxd", "d_in": 5, "d_out": 4, "d_hidden": 7, "activation": "gelu",
        "glu": False, "k": 3, "width": 9,
    }  # fmt: skip
    assert isinstance(build(**right), Layer)
    with pytest.raises(UserError, match=message):
        build(**{**right, **change})


def test_skip_transcoder_of_unit_norm_is_refused() -> None:
    from mxd.layers import MLPTranscoder, MLPTranscoderConfig, Transcoder, TranscoderConfig

    sizes: dict[str, Any] = {"d_in": 3, "d_out": 3, "n_latents": 5, "k": 2, "unit_norm": True}
    with pytest.raises(UserError, match="got unit_norm for a skip transcoder"):
        Transcoder(TranscoderConfig(**sizes, skip=True))
    with pytest.raises(UserError, match="got unit_norm for an mlp_transcoder"):
        MLPTranscoder(MLPTranscoderConfig(**sizes, d_hidden=4))
