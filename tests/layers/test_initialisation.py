"""How training starts each layer: the facts of the paper's recipe."""

from typing import Any

import pytest
import torch
from tests.layers._examples import KINDS, fresh, inputs

from mxd.layers import DenseMLP, DenseMLPConfig, MxD, MxDConfig, Transcoder, TranscoderConfig

ZERO_AT_THE_START = {
    "mxd": {"decoder"},
    "mxd-glu": {"decoder"},
    "mxd-shared": {"decoder"},
    "transcoder": set(),
    "skip-transcoder": {"decoder", "skip"},
    "topk-autoencoder": set(),
    "dense-mlp": {"decoder"},
    "dense-mlp-glu": {"decoder"},
    "mlp-transcoder": {"decoder", "mlp_decoder"},
    "mlp-transcoder-glu": {"decoder", "mlp_decoder"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_start_has_zeros_where_the_recipe_says_so_and_nowhere_else(kind: str) -> None:
    for name, parameter in fresh(kind).named_parameters():
        zero = name.endswith("bias") or name in ZERO_AT_THE_START[kind]
        assert bool((parameter == 0).all()) == zero, name


@pytest.mark.parametrize("kind", KINDS)
def test_start_follows_the_seed(kind: str) -> None:
    first, again, other = fresh(kind, 3), fresh(kind, 3), fresh(kind, 4)
    for (name, a), b, c in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        assert torch.equal(a, c) == bool((a == 0).all()), name


@pytest.mark.parametrize("kind", [kind for kind, zero in ZERO_AT_THE_START.items() if zero])
def test_start_gives_the_bias_alone(kind: str) -> None:
    layer = fresh(kind)
    layer.start_bias_at(torch.arange(4.0))
    assert torch.equal(layer(inputs(layer, 3)), torch.arange(4.0).expand(3, 4))


@pytest.mark.parametrize("kind", [kind for kind, zero in ZERO_AT_THE_START.items() if zero])
def test_start_can_leave_its_zeros(kind: str) -> None:
    # Two zero factors in one product would never learn: some gradient must be there at step one.
    layer = fresh(kind)
    layer(inputs(layer, 30)).sum().backward()
    for name in ZERO_AT_THE_START[kind]:
        gradient = layer.get_parameter(name).grad
        assert gradient is not None
        assert gradient.any(), name


def test_weights_start_like_those_of_linear_layers() -> None:
    # nn.Linear draws from ±1/√(inputs); a table of N rows counts N inputs.
    sizes: dict[str, Any] = {"d_in": 64, "d_out": 32, "k": 4}
    mxd = MxD(MxDConfig(**sizes, d_hidden=48, n_experts=256, glu=True))
    transcoder = Transcoder(TranscoderConfig(**sizes, n_latents=256))
    for weight, fan_in in (
        (mxd.encoder.weight, 64),
        (mxd.encoder_up.weight, 64),  # type: ignore[union-attr]
        (mxd.gate.weight, 64),
        (mxd.modulators, 256),
        (transcoder.encoder.weight, 64),
        (transcoder.decoder, 256),
    ):
        bound = fan_in**-0.5
        assert weight.abs().max() <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_parameter_names_are_those_of_the_file_format() -> None:
    expected = {
        "mxd": "encoder.weight encoder.bias decoder gate.weight gate.bias modulators bias",
        "transcoder": "encoder.weight encoder.bias decoder bias",
        "topk-autoencoder": "encoder.weight encoder.bias decoder bias",
    }
    expected["mxd-glu"] = expected["mxd"] + " encoder_up.weight encoder_up.bias"
    expected["skip-transcoder"] = expected["transcoder"] + " skip"
    for kind, names in expected.items():
        assert set(fresh(kind).state_dict()) == set(names.split()), kind


def test_parameter_shapes_are_those_of_the_file_format() -> None:
    I, O, H, N = 3, 4, 5, 6  # noqa: E741
    layer = MxD(MxDConfig(d_in=I, d_out=O, d_hidden=H, n_experts=N, k=2, glu=True))
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {
        "encoder.weight": (H, I), "encoder.bias": (H,),
        "encoder_up.weight": (H, I), "encoder_up.bias": (H,),
        "decoder": (H, O), "gate.weight": (N, I), "gate.bias": (N,),
        "modulators": (N, O), "bias": (O,),
    }  # fmt: skip
    skip = Transcoder(TranscoderConfig(d_in=I, d_out=O, n_latents=N, k=2, skip=True))
    assert {name: tuple(t.shape) for name, t in skip.state_dict().items()} == {
        "encoder.weight": (N, I), "encoder.bias": (N,), "decoder": (N, O), "bias": (O,),
        "skip": (O, I),
    }  # fmt: skip


def test_layers_move_to_another_dtype_whole() -> None:
    layer = DenseMLP(DenseMLPConfig(d_in=3, d_out=3, d_hidden=4)).to(torch.bfloat16)
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
