"""Where units fire, how selective they are, and the examples that are shown of them."""

import math

import pytest
import torch
from tests.evaluation._parts import ALL, SITE, random_layer, text
from tests.helpers.tiny_models import tiny_model
from torch import nn

from mxd.data import Contexts
from mxd.errors import UserError
from mxd.evaluation import Firing, find_firing, selectivity, show_unit, units_worth_seeing
from mxd.host import capture
from mxd.layers import SparseLayer, Transcoder, TranscoderConfig

TOKEN = 7


def firing_of(tokens: torch.Tensor, units: list[dict[int, float]]) -> Firing:
    """A record with the given {place: value} of each unit."""
    places = torch.tensor([place for unit in units for place in unit], dtype=torch.int64)
    values = torch.tensor([value for unit in units for value in unit.values()])
    starts = torch.tensor([0, *(len(unit) for unit in units)]).cumsum(0)
    return Firing(tokens, places, values, starts)


@pytest.fixture(scope="module")
def planted() -> tuple[nn.Module, SparseLayer, list[Contexts]]:
    """Unit 2 fires on w7 alone, more or less by its position; unit 1 always, 0 and 3 never."""
    model = tiny_model("gpt2")
    with torch.no_grad():  # x at the site depends on the token and a little on its place
        model.transformer.wpe.weight.mul_(0.05)
        for block in model.transformer.h[:2]:
            block.attn.c_proj.weight.mul_(0.02)
    contexts = [Contexts(batch.tokens.remainder(12), batch.documents) for batch in text(rows=60)]
    x = capture(model, [SITE], torch.arange(12)[:, None])[SITE][0][:, 0]
    layer = Transcoder(TranscoderConfig(d_in=32, d_out=32, n_latents=4, k=4))
    with torch.no_grad():
        layer.gate_linear.weight.zero_()
        layer.gate_linear.bias.copy_(torch.tensor([-1.0, 1.0, -0.5, 0.0]))
        layer.gate_linear.weight[2] = torch.linalg.pinv(x)[:, TOKEN]  # 1 for w7, 0 for others
    return model, layer.eval(), contexts


def test_find_firing_notes_the_right_places_and_values(planted) -> None:
    model, layer, contexts = planted
    firing = find_firing(model, SITE, layer, contexts)
    ids = torch.cat([batch.tokens for batch in contexts])
    x = capture(model, [SITE], ids)[SITE][0].flatten(0, 1)
    expected = (x @ layer.gate_linear.weight[2] + layer.gate_linear.bias[2]).detach()
    places, values = firing.of(2)
    assert torch.equal(firing.tokens, ids)
    assert (ids.flatten()[places] == TOKEN).all()
    assert set(places.tolist()) == set((expected > 0).nonzero().flatten().tolist())
    torch.testing.assert_close(values, expected[places])
    assert firing.counts.tolist() == [0, ids.numel(), len(places), 0]


@pytest.mark.parametrize("architecture", [name for name in ALL if name != "dense_mlp"])
def test_find_firing_agrees_with_the_codes(model: nn.Module, architecture: str) -> None:
    layer = random_layer(architecture)
    assert isinstance(layer, SparseLayer)
    firing = find_firing(model, SITE, layer, text())
    x, y = capture(model, [SITE], firing.tokens)[SITE]
    dense = layer.encode(y if layer.reads == "output" else x).dense().flatten(0, 1)
    rebuilt = torch.zeros_like(dense)
    for unit in range(20):
        places, values = firing.of(unit)
        rebuilt[places, unit] = values
    torch.testing.assert_close(rebuilt, dense.detach(), atol=1e-5, rtol=1e-5)


def test_find_firing_stops_at_the_budget_and_refuses_no_text(planted) -> None:
    model, layer, contexts = planted
    assert find_firing(model, SITE, layer, contexts, tokens=17).tokens.shape == (4, 8)
    with pytest.raises(UserError, match="no text"):
        find_firing(model, SITE, layer, [])


def test_selectivity_is_the_divergence_from_the_text() -> None:
    tokens = torch.tensor([[1, 2, 1, 3, 1, 1, 2, 3]])
    everywhere = dict.fromkeys(range(8), 2.0)
    firing = firing_of(tokens, [everywhere, {3: 0.5}, {}, {1: 3.0, 0: 1.0}])
    expected = [
        0.0,
        -math.log(2 / 8),  # fires on token 3 alone
        0.0,
        0.75 * math.log(0.75 / (2 / 8)) + 0.25 * math.log(0.25 / (4 / 8)),
    ]
    assert selectivity(firing).tolist() == pytest.approx(expected)


def test_show_unit_marks_the_token_at_descending_levels(planted, tokenizer) -> None:
    model, layer, contexts = planted
    firing = find_firing(model, SITE, layer, contexts)
    places, values = firing.of(2)
    shown = show_unit(firing, 2, tokenizer, radius=3)
    assert shown.unit == 2
    assert shown.frequency == pytest.approx(len(places) / firing.tokens.numel())
    assert shown.largest == values.max()
    assert shown.selectivity == pytest.approx(float(selectivity(firing)[2]))
    assert [example.token for example in shown.examples] == ["w7"] * len(shown.examples)
    found = [example.value for example in shown.examples]
    assert found == sorted(found, reverse=True)
    assert found[0] == values.max()
    levels = [example.level for example in shown.examples]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] == 1.0
    for example in shown.examples:
        contexts_there = []
        for place in places[values == example.value].tolist():
            row, at = firing.tokens[place // 8].tolist(), place % 8
            sides = (row[max(0, at - 3) : at], row[at + 1 : at + 4])
            contexts_there.append(tuple(tokenizer.decode(side) for side in sides))
        assert (example.before, example.after) in contexts_there


def test_show_unit_takes_the_quantiles_of_many_firings(tokenizer) -> None:
    tokens = torch.full((1, 101), 5)
    firing = firing_of(tokens, [{place: float(place + 1) for place in range(101)}])
    shown = show_unit(firing, 0, tokenizer)
    assert [example.value for example in shown.examples] == [101, 91, 76, 51, 26]
    assert shown.to_dict()["examples"][1]["level"] == 0.9


@pytest.mark.parametrize(("fires", "shown"), [({}, 0), ({2: 1.0}, 1), ({2: 1.0, 4: 2.0}, 2)])
def test_show_unit_that_fires_rarely_has_fewer_examples(
    tokenizer, fires: dict[int, float], shown: int
) -> None:
    firing = firing_of(torch.arange(3, 11)[None], [fires])
    result = show_unit(firing, 0, tokenizer)
    assert len(result.examples) == shown
    assert result.largest == max(fires.values(), default=0.0)


def test_units_worth_seeing_are_selective_and_differ_in_their_token() -> None:
    tokens = torch.arange(1000).remainder(40)[None]

    def on(token: int, also: tuple[int, ...], value: float = 1.0) -> dict[int, float]:
        fires = {place: value for place in range(1000) if place % 40 == token}
        return fires | dict.fromkeys(also, 0.01)

    firing = firing_of(
        tokens,
        [
            dict.fromkeys(range(1000), 1.0),  # always on
            on(3, (0, 1)),
            on(3, (5, 6, 7)),  # the same favourite
            on(9, ()),  # one kind of token only
            {11: 9.0, 12: 9.0, 13: 9.0},  # rare
            on(20, (0, 1)),
            {},
        ],
    )
    chosen = units_worth_seeing(firing)
    assert sorted(chosen) in ([1, 5], [2, 5])
    assert units_worth_seeing(firing, count=1) == chosen[:1]
