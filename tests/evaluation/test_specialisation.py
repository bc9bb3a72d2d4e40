"""Usage, shares and overlaps worked out by hand, and in agreement with an evaluation's figures."""

import math

import numpy as np
import pytest
import torch
from tests.evaluation._parts import SITE, random_layer, text
from torch import nn

from mxd.evaluation import Firing, evaluate, find_firing, find_firings, specialisation
from mxd.evaluation.overlap import overlaps
from mxd.layers import SparseLayer, Transcoder, TranscoderConfig


def firing_of(tokens: torch.Tensor, units: list[dict[int, float]]) -> Firing:
    """A record with the given {place: value} of each unit."""
    places = torch.tensor([place for unit in units for place in unit], dtype=torch.int64)
    values = torch.tensor([value for unit in units for value in unit.values()])
    starts = torch.tensor([0, *(len(unit) for unit in units)]).cumsum(0)
    return Firing(tokens, places, values, starts)


def layer_of(norms: list[float]) -> SparseLayer:
    """A transcoder whose decoder rows have the given norms."""
    layer = Transcoder(TranscoderConfig(d_in=3, d_out=2, n_latents=len(norms), k=1))
    with torch.no_grad():
        layer.decoder.zero_()
        layer.decoder[:, 0] = torch.tensor(norms)
    return layer


TOKENS = torch.tensor([[5, 6, 7, 5], [6, 7, 5, 8]])
UNITS = [
    dict.fromkeys(range(8), 1.0),  # always on
    {0: 1.0, 3: 2.0, 6: 3.0},  # fires on 5 alone
    {},  # dead
    {1: 4.0},  # fires on 6 once
]


def test_usage_and_shares_by_hand() -> None:
    found = specialisation(layer_of([1.0, 2.0, 9.0, 3.0]), firing_of(TOKENS, UNITS))
    assert (found.tokens, found.units, found.l0) == (8, 4, 12 / 8)
    assert (found.dead, found.dead_fraction, found.max_frequency) == (1, 0.25, 1.0)
    assert (found.always_on, found.above_10pct) == ([0], 3)
    assert found.share_of_top_1 == pytest.approx(8 / 32)  # of 8·1 + 6·2 + 4·3
    assert found.share_of_top_1pct == found.share_of_top_10pct == found.share_of_top_1
    assert found.share_of_top_10 == 1.0
    counts = np.array([8, 3, 1]) / 12
    assert found.usage_entropy == pytest.approx(-(counts * np.log(counts)).sum() / math.log(4))
    edges, bins = found.log10_frequency_edges, found.log10_frequency_counts
    assert (edges[0], edges[-1], sum(bins)) == (-1.0, 0.0, 3)
    assert bins[-1] == 1
    assert [b for low, b in zip(edges, bins, strict=False) if b and low < -0.8] == [1]  # 1 in 8


def test_excluded_tokens_count_nowhere() -> None:
    layer = layer_of([1.0, 2.0, 9.0, 3.0])
    layer.provenance.excluded_token_ids = (8,)
    found = specialisation(layer, firing_of(TOKENS, UNITS), excluded_token_ids=(5,))
    assert (found.tokens, found.dead, found.l0) == (4, 2, 5 / 4)


def test_overlaps_by_hand() -> None:
    found = specialisation(layer_of([1.0, 2.0, 9.0, 3.0]), firing_of(TOKENS, UNITS)).overlap
    assert found is not None
    assert found.units == 3
    # token sets {5, 6, 7, 8}, {5}, {6}; positions all, {0, 3, 6}, {1}
    assert found.token_sets.mean == pytest.approx((1 / 4 + 1 / 4 + 0) / 3)
    assert found.token_sets.nearest == pytest.approx(1 / 4)
    assert found.positions.mean == pytest.approx((3 / 8 + 1 / 8 + 0) / 3)
    assert found.positions.nearest == pytest.approx((3 / 8 + 3 / 8 + 1 / 8) / 3)
    # shares of the first: 3/8, 2/8, 2/8, 1/8
    mass = [3 / 8 / (2 - 3 / 8), 2 / 8 / (2 - 2 / 8), 0]
    assert found.token_mass.mean == pytest.approx(sum(mass) / 3)


def test_overlap_tells_selective_from_interchangeable_units() -> None:
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 10, 4000)
    place = np.arange(4000)
    ones = np.ones(4000)
    selective = overlaps(tokens, tokens, place, ones, units=10)
    random = overlaps(tokens, draw.integers(0, 10, 4000), place, ones, units=10)
    assert selective is not None
    assert random is not None
    for overlap in (selective.token_sets, selective.token_mass):
        assert overlap.nearest == pytest.approx(0)
        assert overlap.chance_mean > 0.8
    assert random.token_sets.mean == 1.0
    assert random.token_mass.mean == pytest.approx(random.token_mass.chance_mean, abs=0.03)
    assert random.positions.mean == random.positions.chance_mean == 0  # one unit at each position


def test_chance_is_seeded() -> None:
    draw = np.random.default_rng(0)
    tokens, unit = draw.integers(0, 50, 300), draw.integers(0, 5, 300)
    place, value = draw.integers(0, 300, 300), draw.random(300)
    first, again, other = (
        overlaps(tokens, unit, place, value, units=5, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first is not None
    assert other is not None
    assert first.token_mass.chance_mean != other.token_mass.chance_mean
    assert first.token_mass.mean == other.token_mass.mean


def test_fewer_than_two_live_units_have_no_overlap() -> None:
    found = specialisation(layer_of([1.0, 1.0]), firing_of(TOKENS, [{0: 1.0}, {}]))
    assert found.overlap is None
    silent = specialisation(layer_of([1.0, 1.0]), firing_of(TOKENS, [{}, {}]))
    assert (silent.dead, silent.share_of_top_1, silent.usage_entropy) == (2, 0.0, 0.0)
    assert sum(silent.log10_frequency_counts) == 0


@pytest.mark.parametrize("architecture", ["mxd", "transcoder", "topk_autoencoder"])
@pytest.mark.parametrize("excluded", [(), (5, 9, 17)], ids=["no token", "some tokens"])
def test_usage_agrees_with_the_evaluation(
    model: nn.Module, architecture: str, excluded: tuple[int, ...]
) -> None:
    layer = random_layer(architecture)
    assert isinstance(layer, SparseLayer)
    (figures,) = evaluate(model, {SITE: {"a": layer}}, text(), excluded_token_ids=excluded).layers
    found = specialisation(
        layer, find_firing(model, SITE, layer, text()), excluded_token_ids=excluded
    )
    assert found.l0 == pytest.approx(figures.l0)
    assert found.dead_fraction == figures.dead_fraction
    assert found.usage_entropy == pytest.approx(figures.usage_entropy)
    assert found.max_frequency == pytest.approx(figures.max_expert_frequency)
    assert found.above_10pct == figures.experts_above_10pct
    assert found.share_of_top_1 == pytest.approx(figures.top_expert_share)


def test_many_layers_fire_as_each_alone(model: nn.Module) -> None:
    other = "transformer.h.2.mlp"
    layers = {
        SITE: {"a": random_layer("mxd"), "b": random_layer("topk_autoencoder")},
        other: {"a": random_layer("transcoder")},
    }
    found = {(site, name): firing for site, name, firing in find_firings(model, layers, text())}
    assert list(found) == [(SITE, "a"), (SITE, "b"), (other, "a")]
    for (site, name), firing in found.items():
        alone = find_firing(model, site, layers[site][name], text())
        for part in ("tokens", "places", "values", "starts"):
            assert torch.equal(getattr(firing, part), getattr(alone, part))
