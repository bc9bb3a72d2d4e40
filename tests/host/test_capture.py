"""Captured values are the host's own, bit for bit, and cost no more than they must."""

import pytest
import torch
from tests.helpers.tiny_models import ARCHITECTURES, LAYERS, tiny_model, tiny_tokens
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.host import MLPSite, capture, find_mlps, find_site, record


def _by_plain_hooks(model: nn.Module, site: MLPSite) -> tuple[Tensor, Tensor]:
    """Input of the first linear map and output of the last (or of the MLP, if it has no more)."""
    assert site.parts is not None
    seen: dict[str, Tensor] = {}
    first, last = site.parts.encoder.module, site.parts.decoder.module
    exit_module = site.module if site.boundary == "module" else last
    hooks = [
        first.register_forward_hook(lambda m, args, out: seen.update(x=args[0].clone())),
        exit_module.register_forward_hook(lambda m, args, out: seen.update(y=out.clone())),
    ]
    with torch.no_grad():
        model(input_ids=tiny_tokens(), use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen["x"], seen["y"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_capture_equals_plain_hooks(arch: str) -> None:
    model = tiny_model(arch)
    sites = find_mlps(model)
    values = capture(model, sites, tiny_tokens())
    assert [*values] == [site.name for site in sites]
    for site in sites:
        x, y = values[site.name]
        assert x.shape == (*tiny_tokens().shape, site.d_in)
        assert y.shape == (*tiny_tokens().shape, site.d_out)
        plain_x, plain_y = _by_plain_hooks(model, site)
        assert torch.equal(x.flatten(), plain_x.flatten())
        assert torch.equal(y.flatten(), plain_y.flatten())


def _fail(*args: object, **kwargs: object) -> Tensor:
    raise AssertionError("the forward pass went on")


@pytest.mark.parametrize("arch", ["gpt2", "opt", "bloom"])
def test_capture_stops_after_the_last_site(arch: str) -> None:
    model = tiny_model(arch)
    sites = find_mlps(model)[:2]
    whole = capture(model, sites, tiny_tokens(), stop=False)
    find_site(model, 2).module.forward = _fail
    model.get_output_embeddings().forward = _fail
    stopped = capture(model, sites, tiny_tokens())
    for name, (x, y) in whole.items():
        assert torch.equal(stopped[name][0], x)
        assert torch.equal(stopped[name][1], y)
    with pytest.raises(AssertionError):
        capture(model, sites, tiny_tokens(), stop=False)
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_capture_takes_names_indices_and_a_mask() -> None:
    model = tiny_model("llama")
    mask = torch.ones_like(tiny_tokens())
    values = capture(model, [0, "model.layers.2.mlp"], tiny_tokens(), mask)
    assert [*values] == ["model.layers.0.mlp", "model.layers.2.mlp"]


def test_residual_is_subtracted_where_the_last_map_is_never_called() -> None:
    model = tiny_model("bloom")
    site = find_site(model, 1)
    _, y = capture(model, [site], tiny_tokens())[site.name]
    down = site.module.dense_4h_to_h
    act, up = site.module.gelu_impl, site.module.dense_h_to_4h

    def forward(x: Tensor, residual: Tensor) -> Tensor:
        return nn.functional.linear(act(up(x)), down.weight, down.bias) + residual

    site.module.forward = forward
    _, late = capture(model, [site], tiny_tokens())[site.name]
    torch.testing.assert_close(late, y, rtol=1e-4, atol=1e-4)


def test_opaque_site_of_a_mixture_can_be_captured() -> None:
    model = tiny_model("mixtral")
    site = find_site(model, "model.layers.1.mlp")
    x, y = capture(model, [site], tiny_tokens())[site.name]
    with torch.no_grad():
        torch.testing.assert_close(site.module(x), y)


def test_record_gives_logits_and_values_of_one_pass() -> None:
    model = tiny_model("opt")
    sites = find_mlps(model)
    with record(model, sites) as values, torch.no_grad():
        logits = model(input_ids=tiny_tokens()).logits
        first = dict(values)
        model(input_ids=tiny_tokens().flip(1))
        assert not torch.equal(values[sites[0].name][1], first[sites[0].name][1])
    assert len(first) == LAYERS
    with torch.no_grad():
        assert torch.equal(model(input_ids=tiny_tokens()).logits, logits)
    captured = capture(model, sites, tiny_tokens())
    assert all(torch.equal(captured[name][1], y) for name, (_, y) in first.items())


def test_site_of_another_model_is_refused() -> None:
    sites = find_mlps(tiny_model("llama"))
    with pytest.raises(UserError, match="does not have"):
        capture(tiny_model("gpt2"), sites, tiny_tokens())


def test_no_sites_are_refused() -> None:
    with pytest.raises(UserError, match="no sites"):
        capture(tiny_model("gpt2"), [], tiny_tokens())


def test_site_that_is_not_called_is_refused() -> None:
    model = tiny_model("gpt2")
    site = find_site(model, 1)
    block = model.transformer.h[1]
    block.forward = lambda hidden, *args, **kwargs: hidden
    with pytest.raises(UserError, match="did not come by"):
        capture(model, [site], tiny_tokens())
