"""What an evaluation does not depend on, and its agreement with grafting layers for real."""

import pytest
import torch
from tests.evaluation._parts import ALL, SITE, random_layer, text
from tests.helpers.tiny_models import tiny_model
from torch import nn

from mxd.data import Contexts
from mxd.errors import UserError
from mxd.evaluation import evaluate
from mxd.host import BaseModelMismatch, find_mlps, find_site, graft
from mxd.layers import Layer, MxD, Transcoder, TranscoderConfig, take_statistics

OTHER = "transformer.h.2.mlp"


def grafted_loss(model: nn.Module, layers: dict[str, Layer]) -> float:
    """Next-token cross-entropy with layers really in place."""
    ids = torch.cat([batch.tokens for batch in text()])
    with torch.no_grad(), graft(model, layers):
        logits = model(ids).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()


def zero_layer() -> Layer:
    layer = Transcoder(TranscoderConfig(d_in=32, d_out=32, n_latents=4, k=1))
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer.eval()


@pytest.mark.parametrize("arch", ["gpt2", "llama", "opt", "bloom", "falcon_parallel"])
@pytest.mark.parametrize("excluded", [(), (0, 7, 21)], ids=["no token", "some tokens"])
def test_cross_entropy_equals_grafting_for_every_architecture(
    arch: str, excluded: tuple[int, ...]
) -> None:
    model = tiny_model(arch)
    site = find_mlps(model)[1].name
    layers = {name: random_layer(name) for name in ALL}
    for layer in layers.values():
        layer.provenance.excluded_token_ids = excluded
    figures = evaluate(model, {site: layers}, text())
    for entry in figures.layers:
        expected = grafted_loss(model, {site: layers[entry.name]})
        assert entry.cross_entropy == pytest.approx(expected, rel=1e-5), entry.name
        assert abs(entry.delta_cross_entropy) > 1e-3


def test_figures_do_not_depend_on_the_batch_size(model: nn.Module) -> None:
    layers = {SITE: {name: random_layer(name) for name in ALL}}
    documents = [
        evaluate(
            model, layers, text(per_batch=size), bos_token_id=0, excluded_token_ids=(5, 9)
        ).to_dict()
        for size in (1, 2, 6)
    ]
    for other in documents[1:]:
        assert other["tokens"] == documents[0]["tokens"] == 48
        for one, two in zip(documents[0]["layers"], other["layers"], strict=True):
            for key, value in one.items():
                if isinstance(value, float):
                    assert two[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
                else:
                    assert two[key] == value, key


def test_budget_is_rounded_up_to_whole_batches(model: nn.Module) -> None:
    seen: list[int] = []
    figures = evaluate(
        model, {SITE: {"a": random_layer("mxd")}}, text(), tokens=17, on_progress=seen.append
    )
    assert (figures.tokens, seen) == (32, [16, 32])


@pytest.mark.parametrize("arch", ["gpt2", "llama", "opt", "bloom"])
def test_copy_of_the_mlp_loses_nothing(arch: str) -> None:
    model = tiny_model(arch)
    site = find_mlps(model)[1]
    (entry,) = evaluate(model, {site.name: {"copy": MxD.from_mlp(site)}}, text()).layers
    assert entry.delta_cross_entropy == pytest.approx(0, abs=1e-5)
    assert entry.nmse == pytest.approx(0, abs=1e-9)
    assert entry.loss_recovered == pytest.approx(1, abs=1e-4)
    assert entry.kl == pytest.approx(0, abs=1e-6)


def test_zero_layer_recovers_nothing(model: nn.Module) -> None:
    figures = evaluate(model, {SITE: {"zero": zero_layer()}}, text())
    (entry,) = figures.layers
    assert entry.cross_entropy == pytest.approx(figures.zero_ablation_cross_entropy)
    assert entry.loss_recovered == pytest.approx(0, abs=1e-6)
    assert (entry.nmse, entry.l0, entry.dead_fraction) == (1.0, 0.0, 1.0)
    assert (entry.usage_entropy, entry.experts_above_10pct) == (0.0, 0)


def test_layer_of_the_mean_output_equals_mean_ablation(model: nn.Module) -> None:
    layer = zero_layer()
    mean = torch.randn(32)
    take_statistics(layer, torch.zeros(2, 32), mean.expand(2, 32))
    layer.start_bias_at(mean)
    figures = evaluate(model, {SITE: {"mean": layer}}, text())
    assert figures.layers[0].cross_entropy == pytest.approx(figures.mean_ablation_cross_entropy)


def test_several_sites_are_measured_one_by_one_and_together(model: nn.Module) -> None:
    layers = {
        SITE: {"a": random_layer("mxd"), "b": random_layer("topk_autoencoder")},
        OTHER: {"a": random_layer("transcoder", seed=1), "c": random_layer("mxd", seed=2)},
    }
    figures = evaluate(model, layers, text(), together=True)
    assert [(e.site, e.name) for e in figures.layers] == [
        (SITE, "a"), (SITE, "b"), (OTHER, "a"), (OTHER, "c"),
    ]  # fmt: skip
    for entry in figures.layers:
        alone = grafted_loss(model, {entry.site: layers[entry.site][entry.name]})
        assert entry.cross_entropy == pytest.approx(alone, rel=1e-5)
    (both,) = figures.together
    assert (both.name, both.sites) == ("a", [SITE, OTHER])
    expected = grafted_loss(model, {site: layers[site]["a"] for site in layers})
    assert both.cross_entropy == pytest.approx(expected, rel=1e-5)
    nothing = grafted_loss(model, {SITE: zero_layer(), OTHER: zero_layer()})
    assert figures.zero_ablation_cross_entropy == pytest.approx(nothing, rel=1e-5)
    gap = nothing - figures.base_cross_entropy
    assert both.loss_recovered == pytest.approx((nothing - expected) / gap, rel=1e-3)
    for site in figures.sites:
        alone = grafted_loss(model, {site.site: zero_layer()})
        assert site.zero_ablation_cross_entropy == pytest.approx(alone, rel=1e-5)


def test_layers_together_are_left_out_unless_asked_for(model: nn.Module) -> None:
    layers = {SITE: {"a": random_layer("mxd")}, OTHER: {"a": random_layer("mxd")}}
    assert evaluate(model, layers, text()).together == []


def test_means_of_the_evaluation_text_stand_in_for_missing_ones_and_are_not_kept(
    model: nn.Module,
) -> None:
    layer = random_layer("mxd")
    for _ in range(2):  # the second time too
        figures = evaluate(model, {SITE: {"a": layer}}, text())
        assert figures.static_reference == "evaluation"
        assert figures.layers[0].static_nmse is not None
        assert layer.statistics == {}
    take_statistics(layer, torch.randn(9, 32), torch.randn(9, 32))
    assert evaluate(model, {SITE: {"a": layer}}, text()).static_reference == "training"
    assert set(layer.statistics) == {"mean_output", "mean_modulation"}


def test_compare_pairs_two_students_by_document(model: nn.Module) -> None:
    layers = {SITE: {"a": random_layer("mxd"), "b": random_layer("transcoder")}}
    figures = evaluate(model, layers, text())
    a, b = figures.layers
    difference = figures.compare(SITE, ["a"], ["b"])
    assert difference.mean == pytest.approx(a.delta_cross_entropy - b.delta_cross_entropy)
    assert figures.compare(SITE, ["a"], ["b"], "nmse").mean == pytest.approx(a.nmse - b.nmse)
    assert figures.compare(SITE, ["a"], ["a"]) == (0, 0)


def test_one_document_has_no_standard_error(model: nn.Module) -> None:
    (batch, *_) = text()
    single = [Contexts(batch.tokens, torch.zeros_like(batch.documents))]
    document = evaluate(model, {SITE: {"a": random_layer("mxd")}}, single).to_dict()
    assert document["layers"][0]["delta_cross_entropy_se"] is None
    assert document["layers"][0]["delta_cross_entropy"] is not None


def test_model_and_layers_are_left_as_they_were(model: nn.Module) -> None:
    layer = random_layer("mxd")
    before = {name: p.clone() for name, p in layer.named_parameters()}
    modules = [name for name, _ in model.named_modules()]
    evaluate(model, {SITE: {"a": layer}}, text())
    assert [name for name, _ in model.named_modules()] == modules
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters())


def test_evaluate_without_layers_or_text_is_refused(model: nn.Module) -> None:
    for nothing in ({}, {SITE: {}}):
        with pytest.raises(UserError, match="no layers"):
            evaluate(model, nothing, text())
    with pytest.raises(UserError, match="no text"):
        evaluate(model, {SITE: {"a": random_layer("mxd")}}, [])
    with pytest.raises(UserError, match="no token that is not excluded"):
        evaluate(model, {SITE: {"a": random_layer("mxd")}}, text(), excluded_token_ids=range(64))


def test_layer_of_another_width_is_refused(model: nn.Module) -> None:
    layer = Transcoder(TranscoderConfig(d_in=16, d_out=32, n_latents=4, k=1))
    with pytest.raises(UserError, match="d_in 16"):
        evaluate(model, {SITE: {"a": layer}}, text())


def test_layer_of_other_weights_is_warned_about(model: nn.Module) -> None:
    layer = random_layer("mxd")
    layer.provenance.base_fingerprint = "0" * 16
    with pytest.warns(BaseModelMismatch):
        evaluate(model, {SITE: {"a": layer}}, text())
    assert find_site(model, SITE).name == SITE
