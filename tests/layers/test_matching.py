"""Parameter matching reproduces the paper's widths, and matches what is built."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mxd.errors import UserError
from mxd.layers import Layer, build, match_experts, match_latents

PAPER = {
    "GPT2-124M": (768, 3072, False, 21490),
    "Pythia-410M": (1024, 4096, False, 28658),
    "Pythia-1.4B": (2048, 8192, False, 57330),
    "Llama-3.2-3B": (3072, 8192, True, 86015),
}
MATCHED = ["mxd", "skip_transcoder", "topk_autoencoder", "mlp_transcoder"]


def on_meta(architecture: str, **sizes: Any) -> Layer:
    """A layer that takes no memory."""
    with torch.device("meta"):
        return build(architecture, **{"activation": "gelu", "glu": False, "k": 1, **sizes})


@pytest.mark.parametrize(("d", "d_hidden", "glu", "experts"), PAPER.values(), ids=PAPER.keys())
def test_rule_paper_gives_the_numbers_of_the_paper(
    d: int, d_hidden: int, glu: bool, experts: int
) -> None:
    assert match_experts(d, d, d_hidden, glu=glu, rule="paper") == experts


def test_rule_exact_gives_gpt2_its_14_further_experts() -> None:
    assert match_experts(768, 768, 3072) == match_latents("mxd", 768, 768, 3072) == 21504
    assert match_latents("skip_transcoder", 768, 768, 3072) == 24192
    assert match_latents("transcoder", 768, 768, 3072) == 32 * 768
    assert match_latents("topk_autoencoder", 768, 768, 3072) == 32 * 768
    assert match_latents("dense_mlp", 768, 768, 3072) == 0


def test_exact_match_at_gpt2_shape_is_exact() -> None:
    sizes = {"d_in": 768, "d_out": 768, "d_hidden": 3072}
    target = on_meta("transcoder", **sizes).cost().parameters
    assert target == 2 * 768 * 24576 + 24576 + 768
    assert on_meta("mxd", **sizes).cost().parameters == target


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(MATCHED),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 120),
    st.one_of(st.integers(1, 64), st.floats(1, 64)),
    st.booleans(),
)
def test_matched_layers_differ_by_less_than_one_unit(
    architecture: str, d_in: int, d_out: int, d_hidden: int, expansion: float, glu: bool
) -> None:
    sizes = {"d_in": d_in, "d_out": d_out, "d_hidden": d_hidden, "glu": glu, "expansion": expansion}
    target = on_meta("transcoder", **sizes).cost().parameters
    try:
        layer = on_meta(architecture, **sizes)
    except UserError as error:
        assume("which leaves no parameters" not in str(error))
        raise
    unit = layer.config.d_in + 1 + d_out
    assert abs(layer.cost().parameters - target) <= unit


@pytest.mark.parametrize("expansion", [1, 4, 0.5])
@pytest.mark.parametrize("rule", ["exact", "paper"])
def test_expansion_that_leaves_no_expert_is_refused(rule: str, expansion: float) -> None:
    with pytest.raises(UserError, match="expected a larger expansion"):
        match_experts(768, 768, 3072, expansion=expansion, rule=rule)


@pytest.mark.parametrize("expansion", [0, -3, 1e-9, math.nan, math.inf])
def test_expansion_that_is_no_width_is_refused(expansion: float) -> None:
    with pytest.raises(UserError, match="got a transcoder width of"):
        match_experts(768, 768, 3072, expansion=expansion)
    with pytest.raises(UserError, match="got a transcoder width of"):
        match_latents("transcoder", 768, 768, 3072, expansion=expansion)


def test_expansion_that_a_skip_uses_up_is_refused() -> None:
    with pytest.raises(UserError, match="expected a larger expansion"):
        match_latents("skip_transcoder", 8, 64, 1, expansion=0.125)


def test_unknown_rule_and_architecture_are_refused() -> None:
    with pytest.raises(UserError, match="got rule 'best', expected one of exact, paper"):
        match_experts(768, 768, 3072, rule="best")
    with pytest.raises(UserError, match="got architecture 'mdx'"):
        match_latents("mdx", 768, 768, 3072)


def test_cost_at_gpt2_shape_tells_the_always_on_work_apart() -> None:
    sizes = {"d_in": 768, "d_out": 768, "d_hidden": 3072, "k": 32}
    unit = 768 + 1 + 768
    cost = on_meta("mxd", **sizes).cost()
    always_on = cost.active_parameters - 32 * unit
    assert always_on == 2 * 768 * 3072 + 3072 + 768  # 4.72 M
    assert always_on == pytest.approx(4.72e6, rel=1e-3)
    assert cost.flops_per_token / 2 == 2 * 768 * 3072 + 21504 * 768 + 32 * 768
    assert cost.flops_per_token / 2 == pytest.approx(21e6, rel=0.02)

    transcoder = on_meta("transcoder", **sizes).cost()
    assert transcoder.active_parameters == 32 * unit + 768
    assert transcoder.flops_per_token / 2 == pytest.approx(19e6, rel=0.01)

    skip = on_meta("skip_transcoder", **sizes).cost()
    assert skip.active_parameters == 32 * unit + 768 * 768 + 768  # 0.6 M always on
    dense = on_meta("dense_mlp", **sizes).cost()
    assert dense.active_parameters == dense.parameters == always_on
    beside = on_meta("mlp_transcoder", **sizes).cost()
    assert beside == cost


def test_cost_counts_what_is_there() -> None:
    for architecture in ("transcoder", "mxd", "mlp_transcoder", "topk_autoencoder", "dense_mlp"):
        layer = on_meta(architecture, d_in=8, d_out=8, d_hidden=5, k=2, width=30, glu=True)
        assert layer.cost().parameters == sum(t.numel() for t in layer.state_dict().values())
