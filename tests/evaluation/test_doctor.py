"""Planted failures: the doctor names each by its signature, and nothing for a healthy layer."""

from typing import Any

import pytest
import torch
from tests.evaluation._parts import SITE, planted_mxd
from tests.evaluation.test_planted_cases import N, contexts, host, token_inputs
from torch import nn

from mxd.evaluation import Finding, diagnose, evaluate, measure_units, unit_documents
from mxd.evaluation._signatures import SIGNATURES
from mxd.host import capture, find_site
from mxd.layers import MxD, take_statistics

KEY = (SITE, "planted")


def document(model: nn.Module, layer: MxD) -> dict[str, Any]:
    """What `mxd eval` writes of a layer."""
    x, y = capture(model, [SITE], contexts(seed=1)[0].tokens)[SITE]
    take_statistics(layer, x.flatten(0, 1), y.flatten(0, 1))
    layers = {SITE: {"planted": layer}}
    figures = evaluate(model, layers, contexts()).to_dict()
    return {**figures, **unit_documents(measure_units(model, layers, contexts()))}


def findings(model: nn.Module, layer: MxD, training: Any = None) -> dict[str, Finding]:
    found = diagnose(document(model, layer), None if training is None else {KEY: training})
    return {finding.signature: finding for finding in found[KEY]}


def selective(model: nn.Module) -> MxD:
    """A layer whose experts each stand for one token; it is also what it has to imitate."""
    dense = MxD.from_mlp(find_site(model, SITE))
    gate = torch.linalg.pinv(token_inputs(model)).T
    modulators = torch.randn(N, 32, generator=torch.Generator().manual_seed(4))
    layer = planted_mxd(gate, torch.full((N,), -0.1), modulators, dense, k=1)
    model.transformer.h[1].mlp = layer
    return layer


def planted(bias: torch.Tensor, modulators: torch.Tensor, model: nn.Module) -> MxD:
    """A layer whose gate knows each token by a hair, faithful to the dense MLP."""
    dense = MxD.from_mlp(find_site(model, SITE))
    gate = torch.linalg.pinv(token_inputs(model)).T * 1e-3
    return planted_mxd(gate, bias, modulators, dense, k=1)


def noise(scale: float) -> torch.Tensor:
    return scale * torch.randn(N, 32, generator=torch.Generator().manual_seed(3))


def test_healthy_layer_has_no_finding() -> None:
    model = host()
    healthy = {"diverged": False, "still_falling": False, "nmse_last_tenth": 0.1}
    assert findings(model, selective(model), healthy) == {}


def test_expert_that_is_always_on_is_a_dense_mlp_in_disguise() -> None:
    model = host()
    bias = torch.full((N,), -1.0)
    bias[3] = 1.0
    found = findings(model, planted(bias, torch.ones(N, 32), model))
    assert set(found) == {
        "always_on_expert", "one_expert_carries", "gate_explains_nothing", "dead_experts",
    }  # fmt: skip
    one = found["always_on_expert"]
    assert (one.value, one.figure, one.severity) == (1.0, "max_expert_frequency", "severe")
    assert "dense MLP in disguise" in one.explanation
    assert found["dead_experts"].value == 15 / 16


def test_experts_that_do_the_same_are_interchangeable() -> None:
    model = host()
    found = findings(model, planted(torch.ones(N), 1 + noise(1e-3), model))
    assert set(found) == {"interchangeable_experts"}
    one = found["interchangeable_experts"]
    assert one.figure == "static_nmse"
    assert (one.value or 1) < one.threshold


def test_zeroed_modulator_is_found() -> None:
    model = host()
    layer = selective(model)
    with torch.no_grad():
        layer.modulators[5] = 0
    found = findings(model, layer)
    assert set(found) == {"zeroed_modulators"}
    assert found["zeroed_modulators"].value == 1


def test_modulator_with_zeros_is_rank_collapse() -> None:
    model = host()
    layer = selective(model)
    with torch.no_grad():
        layer.modulators[2, :8] = 0
    found = findings(model, layer)
    assert set(found) == {"rank_collapse"}
    assert found["rank_collapse"].value == pytest.approx(24 / 32)


def test_decoder_that_lost_rank_is_found() -> None:
    model = host()
    layer = selective(model)
    with torch.no_grad():
        layer.decoder[:, :16] = layer.decoder[:, 16:]
    found = findings(model, layer)
    assert {"decoder_rank_collapse"} <= set(found) <= {
        "decoder_rank_collapse", "no_better_than_mean",
    }  # fmt: skip
    assert found["decoder_rank_collapse"].value == 0.5


FIGURES: dict[str, Any] = {
    "name": "planted", "site": SITE, "nmse": 0.2, "cross_entropy": 3.0, "width": 1000, "l0": 8.0,
    "dead_fraction": 0.1, "usage_entropy": 0.8, "max_expert_frequency": 0.2,
    "top_expert_share": 0.1, "static_nmse": 0.9,
}  # fmt: skip


def signatures(
    training: dict[str, Any] | None = None, base: float = 2.9, **changed: Any
) -> list[str]:
    evaluation = {
        "tokens": 20_000,
        "base_cross_entropy": base,
        "sites": [{"site": SITE, "mean_ablation_cross_entropy": 3.5}],
        "layers": [{**FIGURES, **changed}],
    }
    found = diagnose(evaluation, {KEY: training or {}})
    return [finding.signature for finding in found[KEY]]


@pytest.mark.parametrize(
    ("training", "changed", "expected"),
    [
        ({}, {}, []),
        ({"still_falling": False}, {"nmse": 0.51}, ["plateau"]),
        ({"still_falling": False}, {"nmse": 0.49}, []),
        ({"still_falling": None}, {"nmse": 0.6}, []),
        ({"still_falling": True, "nmse_last_tenth": 0.5}, {"nmse": 0.6}, ["still_falling"]),
        ({"diverged": True}, {"static_nmse": 0.1}, ["diverged"]),
        ({}, {"nmse": None, "static_nmse": None}, ["diverged"]),
        ({}, {"cross_entropy": 3.5}, ["no_better_than_mean"]),
        ({}, {"cross_entropy": 3.6, "base": 3.5}, []),  # the MLP itself is no better
        ({}, {"dead_fraction": 0.31}, ["dead_experts"]),
        ({}, {"dead_fraction": 0.31, "width": 90_000}, ["too_few_tokens"]),  # two firings each
        ({}, {"dead_fraction": 0.31, "width": 16_000}, ["dead_experts"]),  # ten
        ({}, {"dead_fraction": 0.29, "width": 90_000}, []),
        ({}, {"dead_fraction": 1.0, "l0": 0.0}, ["dead_experts"]),
        ({}, {"max_expert_frequency": 0.91}, ["always_on_expert"]),
        ({}, {"top_expert_share": 0.51}, ["one_expert_carries"]),
        ({}, {"static_nmse": 0.2}, ["interchangeable_experts"]),
        ({}, {"static_nmse": 0.2, "usage_entropy": 0.1}, ["gate_explains_nothing"]),
        ({}, {"static_nmse": None}, []),  # a transcoder
        (
            {"still_falling": True},
            {"dead_fraction": 0.5, "max_expert_frequency": 1.0},
            ["always_on_expert", "dead_experts", "still_falling"],
        ),
    ],
)
def test_thresholds(training: dict[str, Any], changed: dict[str, Any], expected: list[str]) -> None:
    assert signatures(training, **changed) == expected


def test_silence_in_too_little_text_is_said_with_how_much_would_tell() -> None:
    layer = {**FIGURES, "dead_fraction": 0.31, "width": 90_000}
    (found,) = diagnose({"tokens": 20_000, "layers": [layer]})[KEY]
    assert (found.severity, found.figure, found.value) == ("note", "tokens", 20_000)
    assert found.threshold == 10 * 90_000 / 8
    assert "112,500" in found.detail


@pytest.mark.parametrize("part", [{"rank": [1]}, {"similarity": 3}, {"weighted_similarity": "x"}])
def test_parts_of_another_form_are_passed_over(part: dict[str, Any]) -> None:
    geometry = {"name": "planted", "site": SITE, **part}
    layer = {**FIGURES, "static_nmse": None, "top_expert_share": 10**400}
    evaluation = {"tokens": 20_000, "layers": [layer], "geometry": [geometry]}
    assert diagnose(evaluation)[KEY] == []


def test_control_without_units_can_be_examined() -> None:
    nothing = dict.fromkeys(
        ("l0", "dead_fraction", "usage_entropy", "max_expert_frequency", "top_expert_share")
    )
    assert signatures(**nothing, width=None, static_nmse=None) == []


@pytest.mark.parametrize(("cosine", "twins"), [(0.95, 0.0), (0.1, 0.6)])
def test_near_equal_rows_are_interchangeable(cosine: float, twins: float) -> None:
    evaluation = {
        "tokens": 20_000,
        "layers": [{**FIGURES, "static_nmse": None}],
        "geometry": [
            {
                "name": "planted",
                "site": SITE,
                "rank": None,
                "similarity": {"mean_cosine": cosine, "twin_share": twins},
            }
        ],
    }
    (found,) = diagnose(evaluation)[KEY]
    assert found.signature == "interchangeable_experts"


def test_every_signature_says_what_to_do() -> None:
    for signature in SIGNATURES.values():
        assert signature.severity in ("severe", "warning", "note")
        assert signature.explanation
        assert signature.remedy
