"""The paper's four models: their numbers, and which models they take."""

from dataclasses import replace

import pytest
from tests.helpers.tiny_models import tiny_model

from mxd.errors import UserError
from mxd.host import find_site
from mxd.layers import match_experts
from mxd.training import (
    PAPER_ARCHITECTURES,
    PAPER_KS,
    PRESETS,
    Preset,
    Schedule,
    TextRecipe,
    named_recipe,
    scaled,
)

EACH = pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
TRANSCODER_MILLIONS = {
    "gpt2-124m": 37.8, "pythia-410m": 67.1, "pythia-1.4b": 268.5, "llama-3.2-3b": 604.1,
}  # fmt: skip


@EACH
def test_number_of_experts_follows_from_the_papers_rule(preset: Preset) -> None:
    d, hidden = preset.d_model, preset.d_hidden
    assert match_experts(d, d, hidden, 32, preset.glu, "paper") == preset.n_experts


@EACH
def test_transcoder_has_the_papers_number_of_parameters(preset: Preset) -> None:
    d = preset.d_model
    parameters = 2 * d * 32 * d + 32 * d + d
    assert round(parameters / 1e6, 1) == TRANSCODER_MILLIONS[preset.name]


@EACH
def test_published_increase_is_the_difference_of_the_cross_entropies(preset: Preset) -> None:
    for point in preset.points:
        found = point.cross_entropy - preset.base_cross_entropy
        assert abs(found - point.delta) < 1.6e-4  # each was rounded by itself


@EACH
def test_published_points_are_of_the_papers_grid(preset: Preset) -> None:
    ks = PAPER_KS if preset.name == "gpt2-124m" else (32, 256)
    assert {(p.architecture, p.k) for p in preset.points} == {
        (a, k) for a in PAPER_ARCHITECTURES for k in ks
    }
    assert len(preset.points) == 3 * len(ks)


@EACH
def test_cost_gives_the_papers_speed(preset: Preset) -> None:
    """Tokens a second, of which the paper reports 15.5 k, 15.5 k, 5.7 k and 2.8 k."""
    speeds = dict(zip(PRESETS, (15.5, 15.5, 5.7, 2.8), strict=True))
    assert round(preset.tokens / preset.training_seconds / 1e3, 1) == speeds[preset.name]


def test_preset_takes_a_model_of_its_widths_alone() -> None:
    site = find_site(tiny_model("llama"), 1)
    fitting = replace(PRESETS["llama-3.2-3b"], d_model=32, d_hidden=48)
    fitting.check(site)
    for change in ({"d_model": 31}, {"d_hidden": 47}, {"glu": False}):
        with pytest.raises(UserError, match=r"32 to 32 through 48 hidden units \(GLU\), expected"):
            replace(fitting, **change).check(site)


def test_record_holds_what_a_report_draws() -> None:
    record = PRESETS["gpt2-124m"].record(scale=0.01)
    assert (record["name"], record["scale"], record["tokens"]) == ("gpt2-124m", 0.01, 480_000_000)
    published = record["published"]
    assert published["base_cross_entropy"] == 3.6011
    assert {"architecture": "mxd", "k": 32, "cross_entropy": 3.6039, "delta": 0.0029} in (
        published["points"]
    )


def test_scale_shrinks_budget_and_warm_up_alike() -> None:
    whole = named_recipe("paper", TextRecipe(source="t"), layers=(8,))
    part = scaled(whole, 0.01)
    assert part.tokens == 4_800_000
    assert Schedule.of(part.optimizer, part.tokens).warmup == 50
    assert part.optimizer.default_lr == whole.optimizer.default_lr
    assert scaled(whole, 1) == whole


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.01, float("nan"), float("inf")])
def test_scale_out_of_range_is_refused(scale: float) -> None:
    recipe = named_recipe("small", TextRecipe(source="t"), layers=(8,))
    with pytest.raises(UserError, match="got scale"):
        scaled(recipe, scale)
