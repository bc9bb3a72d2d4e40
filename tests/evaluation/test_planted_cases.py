"""Three layers alike in faithfulness and not in kind: the figures must tell them apart.

One expert that is always on, N nearly identical experts gated at random, and experts that each
stand for one token. The first two copy the dense MLP of a tiny model; the last stands in the
model itself, so that it too is what the layer has to be faithful to.
"""

import pytest
import torch
from tests.evaluation._parts import SITE, planted_mxd
from tests.helpers.tiny_models import tiny_model
from torch import nn

from mxd.data import Contexts
from mxd.evaluation import LayerFigures, evaluate
from mxd.host import capture, find_site
from mxd.layers import MxD, take_statistics

N = 16
TOKENS = torch.arange(1, N + 1)


def host() -> nn.Module:
    """A model in which x at the site depends on the current token alone."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        for block in model.transformer.h[:2]:
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
    return model


def contexts(seed: int = 0) -> list[Contexts]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, N + 1, (40, 16), generator=generator)
    documents = torch.arange(40, dtype=torch.int32)[:, None].repeat(1, 16)
    return [Contexts(tokens, documents)]


def token_inputs(model: nn.Module) -> torch.Tensor:
    """x of each token, (16, 32)."""
    return capture(model, [SITE], TOKENS[:, None])[SITE][0][:, 0]


def measured(model: nn.Module, layer: MxD) -> LayerFigures:
    """Means from one text, figures from another."""
    x, y = capture(model, [SITE], contexts(seed=1)[0].tokens)[SITE]
    take_statistics(layer, x.flatten(0, 1), y.flatten(0, 1))
    (figures,) = evaluate(model, {SITE: {"planted": layer}}, contexts()).layers
    return figures


@pytest.fixture(scope="module")
def always_on() -> LayerFigures:
    model = host()
    dense = MxD.from_mlp(find_site(model, SITE))
    bias = torch.full((N,), -1.0)
    bias[3] = 1.0
    return measured(model, planted_mxd(torch.zeros(N, 32), bias, torch.ones(N, 32), dense, k=1))


@pytest.fixture(scope="module")
def identical() -> LayerFigures:
    model = host()
    dense = MxD.from_mlp(find_site(model, SITE))
    x = token_inputs(model)
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    gate = torch.linalg.pinv(x)[:, shuffled].T * 1e-3  # a token is ahead by a thousandth
    modulators = 1 + 1e-3 * torch.randn(N, 32, generator=torch.Generator().manual_seed(3))
    return measured(model, planted_mxd(gate, torch.ones(N), modulators, dense, k=1))


@pytest.fixture(scope="module")
def selective() -> LayerFigures:
    model = host()
    dense = MxD.from_mlp(find_site(model, SITE))
    gate = torch.linalg.pinv(token_inputs(model)).T  # G x is the token's own unit vector
    modulators = torch.randn(N, 32, generator=torch.Generator().manual_seed(4))
    layer = planted_mxd(gate, torch.full((N,), -0.1), modulators, dense, k=1)
    model.transformer.h[1].mlp = layer
    return measured(model, layer)


def test_all_three_are_faithful(
    always_on: LayerFigures, identical: LayerFigures, selective: LayerFigures
) -> None:
    for figures in (always_on, identical, selective):
        assert figures.nmse < 1e-4
        assert abs(figures.delta_cross_entropy) < 1e-2


def test_static_nmse_is_bad_for_the_selective_layer_alone(
    always_on: LayerFigures, identical: LayerFigures, selective: LayerFigures
) -> None:
    assert (always_on.static_nmse or 0) < 1e-4
    assert (identical.static_nmse or 0) < 1e-4
    assert (selective.static_nmse or 0) > 0.5


def test_modulation_share_is_high_for_the_selective_layer_alone(
    always_on: LayerFigures, identical: LayerFigures, selective: LayerFigures
) -> None:
    assert always_on.modulation_share == pytest.approx(0, abs=1e-6)
    assert identical.modulation_share == pytest.approx(0, abs=1e-4)
    assert (selective.modulation_share or 0) > 0.8


def test_usage_shows_the_expert_that_is_always_on(
    always_on: LayerFigures, identical: LayerFigures, selective: LayerFigures
) -> None:
    assert (always_on.l0, always_on.max_expert_frequency) == (1.0, 1.0)
    assert (always_on.usage_entropy, always_on.top_expert_share) == (0.0, 1.0)
    assert (always_on.experts_above_10pct, always_on.dead_fraction) == (1, 15 / 16)
    for even in (identical, selective):  # entropy and frequency alone do not tell these apart
        assert even.l0 == pytest.approx(1.0)
        assert (even.usage_entropy or 0) > 0.95
        assert (even.max_expert_frequency or 1) < 0.15
        assert (even.top_expert_share or 1) < 0.25
        assert even.dead_fraction == 0
