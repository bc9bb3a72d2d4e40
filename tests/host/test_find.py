"""Finding MLPs: by shape and behaviour, in every architecture."""

import copy
import dataclasses
import logging

import pytest
import torch
from tests.helpers.tiny_models import (
    ARCHITECTURES,
    D_MODEL,
    LAYERS,
    expected,
    tiny_model,
)
from torch import nn

from mxd.errors import UserError
from mxd.host import find_mlps, find_site, site_fingerprint


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_find_mlps_describes_every_block(arch: str) -> None:
    model, wanted = tiny_model(arch), expected(arch)
    sites = find_mlps(model)
    assert [site.layer_index for site in sites] == list(range(LAYERS))
    for site in sites:
        assert (site.d_in, site.d_out, site.d_hidden) == (D_MODEL, D_MODEL, wanted.d_hidden)
        assert (site.activation, site.glu) == (wanted.activation, wanted.glu)
        assert site.boundary == wanted.boundary
        assert site.verified is True
        assert model.get_submodule(site.name) is site.module
        assert site.dtype == torch.float32
        assert site.device == torch.device("cpu")
    assert len({*sites}) == LAYERS


@pytest.mark.parametrize("arch", ["gpt2", "phi3", "opt"])
def test_dense_weights_are_views_of_the_model(arch: str) -> None:
    model = tiny_model(arch)
    site = find_mlps(model)[1]
    weights = site.dense_weights()
    assert weights.encoder.shape == weights.decoder.shape == (site.d_hidden, D_MODEL)
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert weights.encoder.untyped_storage().data_ptr() in storages
    assert weights.decoder.untyped_storage().data_ptr() in storages
    assert not weights.encoder.requires_grad


@pytest.mark.parametrize("arch", ["llama", "phi3"])
def test_gate_and_up_are_told_apart_by_what_they_do(arch: str) -> None:
    model = tiny_model(arch)
    for site in find_mlps(model):
        site.module.forward = _swapped_forward.__get__(site.module)
    before, after = find_mlps(tiny_model(arch))[0], find_mlps(model)[0]
    assert after.verified is True
    up, gate = after.dense_weights().encoder_up, before.dense_weights().encoder
    assert up is not None
    torch.testing.assert_close(up, gate, rtol=0, atol=0)


def _swapped_forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if hasattr(self, "gate_up_proj"):
        up, gate = self.gate_up_proj(x).chunk(2, dim=-1)
    else:
        up, gate = self.gate_proj(x), self.up_proj(x)
    return self.down_proj(up * nn.functional.silu(gate))


def test_modes_and_global_random_state_are_left_alone() -> None:
    model = tiny_model("gpt2").train()
    model.transformer.h[1].mlp.eval()
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    assert all(site.verified for site in find_mlps(model))
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_verified_too(arch: str, dtype: torch.dtype) -> None:
    sites = find_mlps(tiny_model(arch).to(dtype))
    assert [(s.activation, s.verified) for s in sites] == [
        (expected(arch).activation, True)
    ] * LAYERS


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_meta_device_finds_without_verifying(arch: str) -> None:
    sites = find_mlps(tiny_model(arch).to("meta"))
    wanted = expected(arch)
    assert len(sites) == LAYERS
    for site in sites:
        assert site.verified is None
        assert (site.activation, site.glu) == (wanted.activation, wanted.glu)
        assert (site.d_hidden, site.boundary) == (wanted.d_hidden, wanted.boundary)
    with pytest.raises(UserError, match="meta device"):
        site_fingerprint(sites[0])


def test_unknown_activation_is_said_and_can_be_given(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("gpt2")
    model.transformer.h[1].mlp.act = _Weird()
    with caplog.at_level(logging.WARNING, logger="mxd"):
        sites = find_mlps(model)
    assert [(s.activation, s.verified) for s in sites] == [
        ("gelu_new", True),
        (None, False),
        ("gelu_new", True),
    ]
    assert "transformer.h.1.mlp" in caplog.text
    with pytest.raises(UserError, match="activation"):
        sites[1].dense_weights()
    assert dataclasses.replace(sites[1], activation="relu").dense_weights().activation == "relu"


class _Weird(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cos(3 * x)


def test_activation_without_a_module_is_found_by_recomputation() -> None:
    model = tiny_model("gpt2")
    mlp = model.transformer.h[0].mlp
    del mlp.act
    mlp.forward = lambda x: mlp.c_proj(nn.functional.relu(mlp.c_fc(x)).square())
    site = find_site(model, 0)
    assert (site.activation, site.verified) == ("relu2", True)


def test_activation_may_be_a_plain_function() -> None:
    model = tiny_model("gpt2")
    mlp = model.transformer.h[0].mlp
    del mlp.act
    mlp.act = nn.functional.gelu
    site = find_site(model, 0)
    assert (site.activation, site.verified) == ("gelu", True)


def test_mixture_of_experts_is_refused_with_what_was_found() -> None:
    model = tiny_model("mixtral")
    with pytest.raises(UserError, match=r"model\.layers\.0 .*MixtralSparseMoeBlock.*--site NAME"):
        find_mlps(model)
    with pytest.raises(UserError, match=r"model\.layers\.2 "):
        find_site(model, 2)


def test_dense_blocks_beside_mixtures_are_found() -> None:
    model = tiny_model("deepseek")
    sites = find_mlps(model)
    assert [(s.layer_index, s.d_hidden, s.verified) for s in sites] == [
        (0, 48, True),
        (1, 48, True),
    ]
    with pytest.raises(UserError, match=r"model\.layers\.2 "):
        find_site(model, 2)


def test_find_site_takes_index_and_name() -> None:
    model = tiny_model("opt")
    by_index, by_name = find_site(model, 2), find_site(model, "model.decoder.layers.2.fc1")
    assert by_index.name == by_name.name == "model.decoder.layers.2.fc1"
    assert by_name.d_hidden == 72


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (12, "got layer 12, expected 0 to 2"),
        (-1, "got layer -1, expected 0 to 2"),
        ("transformer.h.1.mpl", r"did you mean .*transformer\.h\.1\.mlp"),
        ("nothing like it", "named_modules"),
        ("", "expected one of"),
        ("transformer.wte", "takes a tensor of torch.int64"),
        ("transformer.h", "never calls"),
        ("transformer.h.0.attn", "gives a tuple"),
    ],
)
def test_find_site_refuses_what_is_no_site(which: int | str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_site(tiny_model("gpt2"), which)


def test_opaque_site_has_widths_only() -> None:
    site = find_site(tiny_model("gpt2"), "transformer.h.1.mlp.c_fc")
    assert (site.d_in, site.d_out, site.layer_index) == (D_MODEL, 128, 1)
    assert (site.d_hidden, site.activation, site.glu, site.verified) == (None,) * 4
    with pytest.raises(UserError, match="not copied"):
        site.dense_weights()
    outside = find_site(tiny_model("gpt2"), "transformer.ln_f")
    assert (outside.layer_index, outside.d_in) == (None, D_MODEL)


def test_model_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="list of blocks"):
        find_mlps(nn.Sequential(nn.Linear(2, 2)))


def test_fingerprint_tells_weights_and_not_precision() -> None:
    model = tiny_model("phi3")
    prints = [site_fingerprint(site) for site in find_mlps(model)]
    assert len({*prints}) == LAYERS
    half = find_mlps(copy.deepcopy(model).to(torch.bfloat16))
    assert [site_fingerprint(site) for site in half] == prints
    model.model.layers[0].mlp.down_proj.weight[0, 0] += 1
    assert site_fingerprint(find_site(model, 0)) != prints[0]
    opaque = find_site(model, "model.layers.1.mlp.down_proj")
    assert site_fingerprint(opaque) not in prints
