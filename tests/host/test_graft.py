"""Grafts compute what they should and leave nothing behind."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from tests.helpers.tiny_models import ARCHITECTURES, D_MODEL, tiny_model, tiny_tokens
from torch import Tensor, nn
from transformers.activations import ACT2FN

from mxd.errors import UserError
from mxd.host import (
    BaseModelMismatch,
    MLPSite,
    capture,
    find_mlps,
    find_site,
    graft,
    site_fingerprint,
)
from mxd.layers._provenance import Provenance


class Copy(nn.Module):
    """An MLP computed from a site's dense weights."""

    def __init__(self, site: MLPSite) -> None:
        super().__init__()
        self.weights = site.dense_weights()
        self.config = SimpleNamespace(d_in=site.d_in, d_out=site.d_out)

    def forward(self, x: Tensor) -> Tensor:
        w = self.weights
        hidden = ACT2FN[w.activation](nn.functional.linear(x, w.encoder, w.encoder_bias))
        if w.encoder_up is not None:
            hidden = hidden * nn.functional.linear(x, w.encoder_up, w.encoder_up_bias)
        y = hidden @ w.decoder
        return y if w.bias is None else y + w.bias


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Wide(nn.Module):
    """A layer with a parameter, hence a precision of its own."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((D_MODEL,), 0.5, dtype=dtype))
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.dtype)
        return x * self.scale


class Doubled(nn.Module):
    """Reads the original's output, as an autoencoder does."""

    reads = "output"

    def forward(self, y: Tensor) -> Tensor:
        return 2 * y


def logits(model: nn.Module, tokens: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tiny_tokens() if tokens is None else tokens).logits


def generate(model: nn.Module) -> Tensor:
    mask = torch.ones_like(tiny_tokens())
    return model.generate(
        tiny_tokens(), attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=0
    )


def tree(model: nn.Module) -> list[tuple[str, int]]:
    return [(name, id(module)) for name, module in model.named_modules()]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_graft_of_a_copy_changes_nothing(arch: str) -> None:
    model = tiny_model(arch)
    before, text, modules = logits(model), generate(model), tree(model)
    with graft(model, {site: Copy(site) for site in find_mlps(model)}):
        assert tree(model) != modules
        torch.testing.assert_close(logits(model), before, rtol=1e-3, atol=2e-4)
        assert torch.equal(generate(model), text)
    assert tree(model) == modules
    assert torch.equal(logits(model), before)
    assert torch.equal(generate(model), text)


@pytest.mark.parametrize("arch", ["gpt2", "falcon_parallel", "opt", "bloom", "mpt", "phi3"])
def test_graft_gives_the_next_site_what_the_layer_computes(arch: str) -> None:
    model = tiny_model(arch)
    site = find_site(model, 1)
    x, y = capture(model, [site], tiny_tokens())[site.name]
    with graft(model, {site.name: Zero()}):
        under = capture(model, [site], tiny_tokens())[site.name]
    assert torch.equal(under[0], x)
    assert torch.equal(under[1], torch.zeros_like(y))
    with graft(model, {1: Doubled()}):
        under = capture(model, [site], tiny_tokens())[site.name]
    assert torch.equal(under[0], x)
    assert torch.equal(under[1], 2 * y)


@pytest.mark.parametrize("arch", ["gpt2", "opt", "bloom"])
def test_errors_leave_the_model_as_it_was(arch: str) -> None:
    model = tiny_model(arch)
    modules = tree(model)
    with pytest.raises(RuntimeError, match="inside"), graft(model, {0: Zero(), 1: Doubled()}):
        raise RuntimeError("inside")
    assert tree(model) == modules
    sites = find_mlps(model)
    foreign = find_mlps(tiny_model("llama"))[0]
    with pytest.raises(UserError), graft(model, {sites[0]: Zero(), foreign: Zero()}):
        pytest.fail("entered")
    assert tree(model) == modules
    assert not model._forward_pre_hooks


def test_grafts_nest_and_the_inner_one_counts() -> None:
    model = tiny_model("gpt2")
    site = find_site(model, 1)
    before = logits(model)
    with graft(model, {site: Zero()}):
        outer = logits(model)
        with graft(model, {site.name: Doubled()}):
            inner = logits(model)
            assert find_site(model, 1).verified is True
        assert torch.equal(logits(model), outer)
        with graft(model, {2: Zero()}):
            assert not torch.equal(logits(model), outer)
        assert torch.equal(logits(model), outer)
    with graft(model, {site: Doubled()}):
        assert torch.equal(logits(model), inner)
    assert torch.equal(logits(model), before)


def test_split_grafts_nest() -> None:
    model = tiny_model("opt")
    modules = tree(model)
    with graft(model, {1: Zero()}):
        zeroed = logits(model)
        with graft(model, {1: Doubled()}):
            inner = logits(model)
        assert torch.equal(logits(model), zeroed)
    with graft(model, {1: Doubled()}):
        assert torch.equal(logits(model), inner)
        with graft(model, {1: Zero()}):
            assert torch.equal(logits(model), zeroed)
    assert tree(model) == modules


def test_layer_works_in_its_own_precision() -> None:
    model, layer = tiny_model("llama").to(torch.bfloat16), Wide(torch.float32)
    with graft(model, {0: layer}):
        assert logits(model).dtype == torch.bfloat16
    assert layer.seen == [torch.float32]


def test_gradients_reach_the_layer() -> None:
    model, layer = tiny_model("gpt2"), Wide(torch.float32)
    with graft(model, {0: layer}):
        model(input_ids=tiny_tokens()).logits.sum().backward()
    assert layer.scale.grad is not None
    assert layer.scale.grad.abs().sum() > 0


@pytest.mark.parametrize("layer_width", ["d_in", "d_out"])
def test_widths_that_do_not_fit_are_refused(layer_width: str) -> None:
    layer = Zero()
    layer.config = SimpleNamespace(**{"d_in": 32, "d_out": 32, layer_width: 48})
    message = rf"{layer_width} 48 for transformer\.h\.0\.mlp, expected {layer_width} 32"
    with pytest.raises(UserError, match=message), graft(tiny_model("gpt2"), {0: layer}):
        pytest.fail("entered")


def test_output_of_the_wrong_shape_is_refused() -> None:
    model = tiny_model("gpt2")
    with (
        graft(model, {0: nn.Linear(32, 48)}),
        pytest.raises(UserError, match=r"Linear grafted at transformer\.h\.0\.mlp"),
    ):
        logits(model)


@pytest.mark.parametrize("second", ["transformer.h.0.mlp", "transformer.h.0.mlp.c_fc"])
def test_overlapping_sites_are_refused(second: str) -> None:
    model = tiny_model("gpt2")
    sites = {find_site(model, 0): Zero(), find_site(model, second): Zero()}
    with pytest.raises(UserError, match="apart"), graft(model, sites):
        pytest.fail("entered")


def test_opaque_site_can_be_grafted() -> None:
    model = tiny_model("mixtral")
    before = logits(model)
    with graft(model, {"model.layers.1.mlp": Doubled()}):
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)


def _excluding(layer: nn.Module, *token_ids: int) -> nn.Module:
    layer.provenance = Provenance(excluded_token_ids=token_ids)
    return layer


@pytest.mark.parametrize("arch", ["gpt2", "opt", "bloom", "mpt", "falcon_parallel"])
def test_excluded_tokens_keep_the_original_output(arch: str) -> None:
    model, tokens = tiny_model(arch), tiny_tokens()
    site = find_site(model, 1)
    excluded = tokens[0, 2].item(), tokens[1, 4].item()
    y = capture(model, [site], tokens)[site.name][1]
    with graft(model, {site: _excluding(Zero(), *excluded)}):
        under = capture(model, [site], tokens)[site.name][1]
    kept = torch.isin(tokens, torch.tensor(excluded))
    assert kept.sum() == 2
    assert torch.equal(under, torch.where(kept[..., None], y, 0.0))


@pytest.mark.parametrize("arch", ["llama", "opt", "bloom"])
def test_excluded_tokens_hold_in_cached_generation(arch: str) -> None:
    model = tiny_model(arch)
    text = generate(model)
    with graft(model, {1: _excluding(Zero(), *range(64))}):
        assert torch.equal(generate(model), text)
    some = tuple(text[0, :8].tolist())
    with graft(model, {1: _excluding(Zero(), *some)}):
        cached = generate(model)
        step_by_step = tiny_tokens()
        for _ in range(5):
            following = logits(model, step_by_step)[:, -1].argmax(-1, keepdim=True)
            step_by_step = torch.cat([step_by_step, following], dim=1)
    assert torch.equal(cached, step_by_step)


def test_excluded_tokens_need_token_ids() -> None:
    model = tiny_model("gpt2")
    embedded = model.get_input_embeddings()(tiny_tokens())
    with graft(model, {1: _excluding(Zero(), 3)}):
        with pytest.raises(UserError, match="inputs_embeds"):
            model(inputs_embeds=embedded)
        with pytest.raises(UserError, match="whole model"):
            model.transformer(tiny_tokens())
        logits(model)
    model(inputs_embeds=embedded)


def _warnings_of(model: nn.Module, provenance: Provenance, check: bool = True) -> list[str]:
    layer = Zero()
    layer.provenance = provenance
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with graft(model, {1: layer}, check=check):
            pass
    assert all(w.category is BaseModelMismatch for w in caught)
    return [str(w.message) for w in caught]


def test_foreign_provenance_warns_and_own_does_not() -> None:
    model = tiny_model("gpt2")
    model.config._name_or_path = "this-model"
    site = find_site(model, 1)
    own = site_fingerprint(site)
    moved = Provenance(base_model="elsewhere/this-model", base_fingerprint=own, site=site.name)
    assert _warnings_of(model, moved) == []
    assert _warnings_of(model, Provenance(base_model="this-model")) == []
    (message,) = _warnings_of(model, Provenance(base_model="other", base_fingerprint="0" * 16))
    assert "other" in message
    assert "this-model" in message
    assert own in message
    (message,) = _warnings_of(model, Provenance(base_model="other"))
    assert "other" in message
    (message,) = _warnings_of(model, Provenance(site="transformer.h.0.mlp"))
    assert "transformer.h.0.mlp" in message
    assert _warnings_of(model, Provenance(base_model="other"), check=False) == []
