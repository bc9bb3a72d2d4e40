"""Passes from the block of a site on: the same bits as whole passes, and fewer blocks."""

import contextlib
from typing import Any

import pytest
import torch
from tests.evaluation._parts import random_layer, text
from tests.helpers.tiny_models import ARCHITECTURES, tiny_model, tiny_tokens

from mxd.evaluation import evaluate
from mxd.host import Resume, find_mlps, graft
from mxd.host.find import find_site


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(tiny_tokens(), use_cache=False).logits
    return result


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_resumed_pass_with_a_layer_gives_the_same_bits(arch: str) -> None:
    model = tiny_model(arch)
    sites = find_mlps(model)
    resume = Resume(model, sites)
    assert [resume.can(site.name) for site in sites] == [False, True, True]
    with resume.remember():
        plain = logits(model)
    for site in sites[1:]:
        with resume.resuming([site.name]):
            assert torch.equal(logits(model), plain)
        with graft(model, {site: random_layer("mxd")}):
            whole = logits(model)
            with resume.resuming([site.name]):
                assert torch.equal(logits(model), whole)
        assert not torch.equal(whole, plain)
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("arch", ["gpt2", "gemma3", "falcon_parallel"])
def test_blocks_before_the_first_site_are_not_run(arch: str) -> None:
    model = tiny_model(arch)
    sites = find_mlps(model)
    resume, run = Resume(model, sites), []
    with resume.remember():
        logits(model)
    for site in sites:
        site.module.register_forward_pre_hook(lambda *_, name=site.name: run.append(name))
    with resume.resuming([sites[2].name]):
        logits(model)
    assert run == [sites[2].name]
    with resume.resuming([sites[2].name, sites[1].name]):
        logits(model)
    assert run[1:] == [sites[1].name, sites[2].name]
    resume.give_up(sites[2].name)
    run.clear()
    with resume.resuming([sites[2].name]):
        logits(model)
    assert len(run) == 3


def test_blocks_are_as_before_after_an_error() -> None:
    model = tiny_model("gpt2")
    site = find_site(model, 2)
    resume = Resume(model, [site])
    with resume.remember():
        plain = logits(model)
    with pytest.raises(RuntimeError, match="on the way"), resume.resuming([site.name]):
        raise RuntimeError("on the way")
    assert all("forward" not in block.__dict__ for block in model.transformer.h)
    assert torch.equal(logits(model), plain)


def figures(model: Any, site: str) -> dict[str, Any]:
    layers = {name: random_layer(name) for name in ("mxd", "topk_autoencoder", "dense_mlp")}
    return evaluate(model, {site: layers}, text()).to_dict()


@pytest.mark.parametrize("arch", ["gpt2", "llama", "opt", "bloom", "falcon_parallel", "gemma2"])
def test_evaluation_has_the_same_bits_as_with_whole_passes(
    arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(arch)
    site = find_mlps(model)[2].name
    resumed = figures(model, site)
    monkeypatch.setattr(Resume, "resuming", lambda *_: contextlib.nullcontext())
    assert figures(model, site) == resumed


@pytest.mark.parametrize("fault", ["another result", "an error"])
def test_model_that_cannot_be_resumed_is_run_as_a_whole(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last block looks at what the first one did in the same pass."""
    model, seen = tiny_model("gpt2"), []

    def needs(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        if not seen and fault == "an error":
            raise RuntimeError("the first block was left out")
        result = output + len(seen)
        seen.clear()
        return result

    model.transformer.h[0].mlp.register_forward_hook(lambda *_: seen.append(1))
    model.transformer.h[2].attn.c_proj.register_forward_hook(needs)
    found = figures(model, "transformer.h.1.mlp")
    monkeypatch.setattr(Resume, "resuming", lambda *_: contextlib.nullcontext())
    assert figures(model, "transformer.h.1.mlp") == found
