"""The editing study: a planted expert that only the target text needs, and figures by hand."""

import numpy as np
import pytest
import torch
from tests.evaluation._parts import SITE, planted_mxd, random_layer
from tests.evaluation._parts import text as random_contexts
from tests.helpers.tiny_models import tiny_model
from torch import nn

from mxd.data import Contexts
from mxd.errors import UserError
from mxd.evaluation import EditingStudy, StudyText, editing_study
from mxd.evaluation.editing.bench import Bench
from mxd.evaluation.editing.ranking import (
    UnitTotals,
    attribution,
    best,
    drawn,
    matched,
    probing,
    unit_totals,
)
from mxd.host import capture, find_site, graft
from mxd.layers import Edit, Layer, MxD, SparseLayer, edited

SPARSE = ("mxd", "transcoder", "skip_transcoder", "topk_autoencoder", "mlp_transcoder")
N, SPECIAL, FOLLOWS = 16, 5, 6
A = SPECIAL - 1
"""The expert that fires on SPECIAL alone, which the model needs to foresee FOLLOWS."""


def planted() -> tuple[nn.Module, MxD]:
    """A model whose input at the site depends on the current token, and one expert a token."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
    dense = MxD.from_mlp(find_site(model, SITE))
    x = capture(model, [SITE], torch.arange(1, N + 1)[:, None])[SITE][0][:, 0]
    layer = planted_mxd(
        torch.linalg.pinv(x).T, torch.full((N,), -0.1), torch.zeros(N, 32), dense, k=1
    )
    with torch.no_grad():
        toward = 20 * model.transformer.wte.weight[FOLLOWS]  # the direction of its logit
        layer.modulators[A] = toward / (0.9 * layer.dense_branch(x[A]))
        layer.modulators[:A] = 0.05
        layer.modulators[A + 1 :] = 0.05
    layer.statistics["mean_output"] = torch.zeros(32)
    return model, layer


def planted_text(special: bool, seed: int) -> list[Contexts]:
    """Twelve documents of random tokens; in the target every SPECIAL is followed by FOLLOWS."""
    tokens = torch.randint(7, N + 1, (12, 16), generator=torch.Generator().manual_seed(seed))
    tokens[:, 2] = FOLLOWS
    if special:
        tokens[:, 4], tokens[:, 5], tokens[:, 9], tokens[:, 10] = (SPECIAL, FOLLOWS) * 2
    documents = torch.arange(12, dtype=torch.int32)[:, None].repeat(1, 16)
    return [Contexts(tokens[:6], documents[:6]), Contexts(tokens[6:], documents[6:])]


def planted_texts() -> tuple[StudyText, StudyText]:
    return (
        StudyText("target", planted_text(True, 1), planted_text(True, 2)),
        StudyText("keep", planted_text(False, 3), planted_text(False, 4)),
    )


@pytest.fixture(scope="module")
def study() -> EditingStudy:
    model, layer = planted()
    target, keep = planted_texts()
    return editing_study(model, {SITE: {"planted": layer}}, target, keep, sizes=(1, 4))


def test_planted_expert_is_ranked_first(study: EditingStudy) -> None:
    (layer,) = study.layers
    firsts = {e.ranking: e.units for e in layer.edits if e.m == 1 and e.draw is None}
    assert firsts == {"attribution": (A,), "probing": (A,)}
    assert layer.live_units == 12  # 5, 6 and 7 to 16


def test_planted_expert_is_edited_without_collateral_damage(study: EditingStudy) -> None:
    (layer,) = study.layers
    for chosen in (e for e in layer.edits if e.m == 1 and e.draw is None):
        effect = chosen.effect
        assert effect.target_rise > 0.2
        assert effect.target_rise_se == pytest.approx(0, abs=1e-6)  # alike in every document
        assert (effect.keep_rise, effect.keep_rise_se) == (0.0, 0.0)
        assert effect.selectivity == effect.target_rise
        assert effect.ratio is None
        gap = layer.target_cross_entropy - study.base_target_cross_entropy
        assert effect.target_rise_over_base == pytest.approx(gap + effect.target_rise)
    for control in (e for e in layer.edits if e.draw is not None and A not in e.units):
        assert abs(control.effect.selectivity) < 0.1
    assert len([e for e in layer.edits if e.draw is not None]) == 2 * 2 * 5


def test_random_controls_are_drawn_alike_each_time(study: EditingStudy) -> None:
    model, layer = planted()
    again = editing_study(model, {SITE: {"planted": layer}}, *planted_texts(), sizes=(4, 1, 1))
    assert again.to_dict() == study.to_dict()
    other = editing_study(model, {SITE: {"planted": layer}}, *planted_texts(), sizes=(1, 4), seed=1)
    drawn = [[e.units for e in s.layers[0].edits if e.draw is not None] for s in (study, other)]
    assert drawn[0] != drawn[1]


def test_unedited_scale_is_refused() -> None:
    model, layer = planted()
    target, keep = planted_texts()
    layers = {SITE: {"planted": layer}}
    for options, message in (
        ({"scale": 1.0}, "got scale=1.0"),
        ({"scale": float("nan")}, "got scale=nan"),
        ({"rankings": ("taste",)}, r"got rankings \['taste'\]"),
        ({"sizes": ()}, r"got sizes \[\]"),
        ({"sizes": (0,)}, r"got sizes \[0\]"),
        ({"random_draws": -1}, "got random_draws=-1"),
    ):
        with pytest.raises(UserError, match=message):
            editing_study(model, layers, target, keep, **options)
    dense = random_layer("dense_mlp")
    with pytest.raises(UserError, match="got no layer with units"):
        editing_study(model, {SITE: {"dense": dense}}, target, keep)


def loss(model: nn.Module, layer: Layer, batch: Contexts) -> torch.Tensor:
    """Losses of every next token with a layer grafted in, in the model's own precision."""
    with graft(model, {SITE: layer}), torch.no_grad():
        logits = model(batch.tokens).logits[:, :-1].log_softmax(-1)
    return -logits.gather(-1, batch.tokens[:, 1:, None])[..., 0]


@pytest.mark.parametrize("architecture", SPARSE)
def test_attribution_is_the_slope_of_the_loss(architecture: str, double: nn.Module) -> None:
    layer = random_layer(architecture).double()
    assert isinstance(layer, SparseLayer)
    contexts = random_contexts()
    totals = unit_totals(Bench(double, SITE), layer, contexts)
    step = 1e-6
    for unit in totals.fired.topk(3).indices.tolist():
        up, down = (
            sum(float(loss(double, edited(layer, Edit(unit, scale=s)), b).sum()) for b in contexts)
            for s in (1 + step, 1 - step)
        )
        slope = (up - down) / (2 * step)
        assert float(totals.slopes[unit]) == pytest.approx(slope, rel=2e-4, abs=2e-4)
    assert totals.predicted == 6 * 7
    assert totals.tokens == 6 * 8


def test_attribution_is_gradient_times_contribution(double: nn.Module) -> None:
    layer = random_layer("mxd").double()
    assert isinstance(layer, MxD)
    (batch,) = random_contexts(per_batch=6)
    x = capture(double, [SITE], batch.tokens)[SITE][0]
    y = layer(x).detach().requires_grad_()

    class Leaf(nn.Module):
        def forward(self, _x: torch.Tensor) -> torch.Tensor:
            return y

    with graft(double, {SITE: Leaf()}):
        logits = double(batch.tokens).logits[:, :-1].log_softmax(-1)
    (-logits.gather(-1, batch.tokens[:, 1:, None])).sum().backward()
    assert y.grad is not None
    a = layer.encode(x).dense().detach().numpy().reshape(-1, 20)
    shared = layer.dense_branch(x).detach().numpy().reshape(-1, 32)
    rows, gradient = layer.modulators.detach().numpy(), y.grad.numpy().reshape(-1, 32)
    expected = np.einsum("tn,no,to,to->n", a, rows, shared, gradient)
    slopes = unit_totals(Bench(double, SITE), layer, [batch]).slopes
    np.testing.assert_allclose(slopes.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_sums_over_units_by_hand(model: nn.Module) -> None:
    layer = random_layer("transcoder")
    assert isinstance(layer, SparseLayer)
    contexts = random_contexts()
    totals = unit_totals(Bench(model, SITE, excluded=(0,)), layer, contexts, attribute=False)
    tokens = torch.cat([batch.tokens for batch in contexts])
    x = capture(model, [SITE], tokens)[SITE][0]
    a = layer.encode(x).dense().detach().numpy()[tokens.numpy() != 0].astype(np.float64)
    np.testing.assert_allclose(totals.sums.numpy(), a.sum(0), rtol=1e-5)
    np.testing.assert_allclose(totals.squares.numpy(), (a**2).sum(0), rtol=1e-5)
    np.testing.assert_array_equal(totals.fired.numpy(), (a > 0).sum(0))
    assert (totals.tokens, float(totals.slopes.abs().sum())) == (len(a), 0.0)


def test_probing_is_the_standardised_difference() -> None:
    draw = np.random.default_rng(0)
    texts = [np.maximum(draw.normal(size=(n, 4)) + shift, 0) for n, shift in ((50, 0.5), (70, 0))]
    for a in texts:
        a[:, 3] = 2.0  # a shared expert, always on
    totals = []
    for a in texts:
        fired, sums, squares = (torch.tensor(v.sum(0)) for v in ((a > 0) * 1.0, a, a**2))
        totals.append(UnitTotals(len(a), len(a), fired, sums, squares, torch.zeros(4)))
    deviation = np.sqrt((texts[0].var(0) + texts[1].var(0)) / 2)
    expected = (texts[0].mean(0) - texts[1].mean(0))[:3] / deviation[:3]
    scores = probing(*totals).numpy()
    np.testing.assert_allclose(scores[:3], expected)
    assert scores[3] == 0


def test_attribution_is_per_token_and_of_the_edit() -> None:
    empty = torch.zeros(2)
    target = UnitTotals(9, 10, empty, empty, empty, torch.tensor([-5.0, 1.0]))
    keep = UnitTotals(9, 20, empty, empty, empty, torch.tensor([-4.0, 2.0]))
    assert attribution(target, keep, 0.0).tolist() == pytest.approx([0.3, 0.0])
    assert attribution(target, keep, 3.0).tolist() == pytest.approx([-0.6, 0.0])


def test_choices_are_live_distinct_and_matched() -> None:
    counts = torch.arange(40, dtype=torch.float64).square()
    live = list(range(1, 40))
    scores = counts.clone()
    scores[0] = 1e9  # dead
    assert best(scores, live, 3) == (39, 38, 37)
    assert best(scores, live, 99) == tuple(reversed(live))
    random = drawn(live, 6, np.random.default_rng(0))
    assert len(set(random)) == 6
    assert set(random) <= set(live)
    chosen = (30, 31, 8)
    alike = matched(chosen, live, counts, np.random.default_rng(0))
    assert len(set(alike)) == 3
    assert not set(alike) & set(chosen)
    assert all(abs(a - c) <= 12 for a, c in zip(alike, chosen, strict=True))
    assert matched((1, 2), [1, 2], counts, np.random.default_rng(0)) == ()


@pytest.mark.parametrize(
    ("architecture", "scale"), [(name, -1.5 if name == "transcoder" else 0.0) for name in SPARSE]
)
def test_rises_are_those_of_grafting_the_edited_layer(
    architecture: str, scale: float, double: nn.Module
) -> None:
    layer = random_layer(architecture).double()
    layer.provenance.excluded_token_ids = (0,)  # BOS stays the original's
    texts = [random_contexts(seed=s) for s in range(4)]
    target, keep = (StudyText("t", texts[0], texts[1]), StudyText("k", texts[2], texts[3]))
    study = editing_study(
        double, {SITE: {"one": layer}}, target, keep, scale=scale, sizes=(1, 3), random_draws=1,
        rankings=("probing",),
    )  # fmt: skip
    (found,) = study.layers
    assert {e.ranking for e in found.edits} == {"probing", "random", "random_matched"}
    for edit in found.edits:
        changed = edited(layer, [Edit(unit, scale=scale) for unit in edit.units])
        for text, rise in ((texts[1], edit.effect.target_rise), (texts[3], edit.effect.keep_rise)):
            before, after = (
                torch.cat([loss(double, each, batch).flatten() for batch in text])
                for each in (layer, changed)
            )
            assert rise == pytest.approx(float((after - before).mean()), abs=2e-6)
    assert found.ablation["mean"] is None
    zero = found.ablation["zero"]
    assert zero is not None

    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    before, after = (
        torch.cat([loss(double, each, batch).flatten() for batch in texts[1]])
        for each in (layer, Nothing())
    )
    assert zero.target_rise == pytest.approx(float((after - before).mean()), abs=2e-6)


def test_standard_errors_are_clustered_by_document(double: nn.Module) -> None:
    layer = random_layer("transcoder").double()
    texts = [random_contexts(seed=s) for s in range(4)]
    study = editing_study(
        double, {SITE: {"one": layer}}, StudyText("t", *texts[:2]), StudyText("k", *texts[2:]),
        sizes=(3,), random_draws=0,
    )  # fmt: skip
    edit = study.layers[0].edits[0]
    changed = edited(layer, [Edit(unit, scale=0) for unit in edit.units])
    rises = np.concatenate(
        [(loss(double, changed, b) - loss(double, layer, b)).flatten().numpy() for b in texts[1]]
    )
    documents = np.concatenate([b.documents[:, 1:].flatten().numpy() for b in texts[1]])
    mean, groups = rises.mean(), np.unique(documents)
    sums = np.array([(rises[documents == d] - mean).sum() for d in groups])
    error = np.sqrt((sums**2).sum() * len(groups) / (len(groups) - 1)) / len(rises)
    assert edit.effect.target_rise_se == pytest.approx(error, rel=1e-3)
    assert edit.effect.selectivity_se == pytest.approx(
        np.hypot(error, edit.effect.keep_rise_se or 0), rel=1e-3
    )


def test_study_goes_on_past_a_layer_whose_units_never_fire(
    model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    dead, alive = random_layer("transcoder"), random_layer("transcoder", seed=1)
    with torch.no_grad():
        dead.encoder.bias.fill_(-1e6)
    texts = [random_contexts(seed=s) for s in range(4)]
    kept: list[int] = []
    study = editing_study(
        model, {SITE: {"dead": dead, "alive": alive, "dense": random_layer("dense_mlp")}},
        StudyText("t", *texts[:2]), StudyText("k", *texts[2:]), sizes=(1,), random_draws=0,
        on_layer=lambda part: kept.append(len(part.layers)),
    )  # fmt: skip
    assert [(layer.name, len(layer.edits)) for layer in study.layers] == [("dead", 0), ("alive", 2)]
    assert kept == [1, 2]
    assert "no unit of dead fires" in caplog.text


def test_conditional_edits_of_a_layer_are_part_of_the_study(double: nn.Module) -> None:
    layer = random_layer("mxd").double()
    assert isinstance(layer, SparseLayer)
    changed = edited(layer, [Edit(n, remove=True, unless=0) for n in range(1, 20)])
    texts = [random_contexts(seed=s) for s in range(4)]
    study = editing_study(
        double, {SITE: {"one": changed}}, StudyText("t", *texts[:2]), StudyText("k", *texts[2:]),
        sizes=(1,), random_draws=0,
    )  # fmt: skip
    expected = torch.cat([loss(double, changed, b).flatten() for b in texts[1]]).mean()
    assert study.layers[0].target_cross_entropy == pytest.approx(float(expected), abs=2e-6)
