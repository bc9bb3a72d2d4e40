"""Students whose layer differs from the recipe's: names, options, starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny_models import tiny_model
from tests.training._parts import SITE, same_weights, tiny_recipe

from mxd.errors import UserError
from mxd.host import find_site
from mxd.layers import DenseMLP, MLPTranscoder, MxD
from mxd.training import LayerOverrides, LayerRecipe, StudentSpec, fit, open_run
from mxd.training.build import new_layer, student_name
from mxd.training.run import from_dict

CHANGES: dict[str, Any] = {
    "width": 20,
    "d_hidden": 40,
    "activation": "relu",
    "sparsity": "l1",
    "random_k": True,
    "unit_norm": True,
    "shared_experts": 2,
}


def variant(architecture: str = "mxd", label: str = "changed", **options: Any) -> StudentSpec:
    return StudentSpec(
        architecture=architecture, k=3, variant=label, options=LayerOverrides(**options)
    )


def fresh(spec: StudentSpec, *, arch: str = "gpt2", **recipe: Any) -> Any:
    made = tiny_recipe(students=(spec,), **recipe)
    return new_layer(made, spec, find_site(tiny_model(arch), 1))


@pytest.mark.parametrize("name", CHANGES)
def test_option_changes_its_field_of_the_configuration_and_no_other(name: str) -> None:
    base = fresh(StudentSpec(architecture="mxd", k=3)).config.to_dict()
    changed = fresh(variant(**{name: CHANGES[name]})).config.to_dict()
    key = "n_experts" if name == "width" else name
    assert changed == base | {key: CHANGES[name]}
    assert base[key] != CHANGES[name]


def test_name_ends_in_the_variant() -> None:
    assert student_name(variant(width=20), fresh(variant(width=20))) == "mxd-k3-w20-s42-changed"
    both = StudentSpec(
        architecture="transcoder", k=3, lr=1e-5, variant="a-b", options=LayerOverrides(width=9)
    )
    assert student_name(both, fresh(both)) == "transcoder-k3-w9-s42-lr1e-05-a-b"


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("transcoder", {"activation": "relu"}),
        ("transcoder", {"start": "random_decoder"}),
        ("skip_transcoder", {"unit_norm": True}),
        ("topk_autoencoder", {"d_hidden": 3}),
        ("dense_mlp", {"width": 3}),
        ("dense_mlp", {"start": "unit_modulators"}),
        ("mlp_transcoder", {"shared_experts": 1}),
    ],
)
def test_option_without_effect_is_refused(architecture: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"got {next(iter(options))} for {architecture}"):
        variant(architecture, **options)


def test_label_with_two_meanings_is_refused() -> None:
    with pytest.raises(UserError, match="two meanings of variant 'changed'"):
        tiny_recipe(students=(variant(width=20), variant(width=21)))


def test_variant_is_trained_beside_an_unchanged_student(
    model, tokenizer, documents, tmp_path: Path
) -> None:
    base = StudentSpec(architecture="mxd", k=3)
    alone = fit(model, tokenizer, tiny_recipe(students=(base,)), documents=documents)
    recipe = tiny_recipe(students=(base, variant(start="random_decoder", d_hidden=40)))
    run = fit(model, tokenizer, recipe, documents=documents, out=tmp_path / "run")
    assert list(run.layers[SITE]) == ["mxd-k3-w24-s42", "mxd-k3-w24-s42-changed"]
    assert same_weights(alone.layers[SITE]["mxd-k3-w24-s42"], run.layers[SITE]["mxd-k3-w24-s42"])
    opened = open_run(tmp_path / "run")
    assert opened.recipe == recipe
    layer = opened.layers[SITE]["mxd-k3-w24-s42-changed"]
    assert layer.config.d_hidden == 40
    summaries = [one.provenance.training for one in opened.layers[SITE].values()]
    assert [(one["variant"], one["start"]) for one in summaries] == [
        (None, "paper"),
        ("changed", "random_decoder"),
    ]


def test_record_of_a_run_before_variants_opens(model, tokenizer, documents, tmp_path: Path) -> None:
    fit(model, tokenizer, tiny_recipe(), documents=documents, out=tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["recipe"]["track_experts"], record["recipe"]["layer"]["start"]
    for student in record["recipe"]["students"]:
        del student["variant"], student["options"]
    path.write_text(json.dumps(record), encoding="utf-8")
    opened = open_run(tmp_path / "run")
    assert opened.recipe == tiny_recipe()
    assert list(opened.layers[SITE]) == ["mxd-k3-w24-s42"]


def test_damaged_options_are_refused() -> None:
    raw = {"random_k": "yes"}
    with pytest.raises(UserError, match=r"LayerOverrides: got 'yes', expected bool"):
        from_dict(LayerOverrides, raw, "run.json")


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
@pytest.mark.parametrize("architecture", ["mxd", "dense_mlp", "mlp_transcoder"])
def test_base_mlp_start_copies_encoder_and_decoder(arch: str, architecture: str) -> None:
    dense = find_site(tiny_model(arch), 1).dense_weights()
    layer = fresh(variant(architecture, start="base_mlp"), arch=arch)
    prefix = "mlp_" if isinstance(layer, MLPTranscoder) else ""
    encoder, up, decoder = (
        getattr(layer, prefix + name) for name in ("encoder", "encoder_up", "decoder")
    )
    torch.testing.assert_close(encoder.weight.detach(), dense.encoder)
    torch.testing.assert_close(decoder.detach(), dense.decoder)
    if dense.encoder_bias is not None:
        torch.testing.assert_close(encoder.bias.detach(), dense.encoder_bias)
    assert (up is None) == (dense.encoder_up is None)
    if up is not None:
        torch.testing.assert_close(up.weight.detach(), dense.encoder_up)


def test_base_mlp_start_gives_the_dense_output_where_the_modulation_is_one() -> None:
    site = find_site(tiny_model("gpt2"), 1)
    layer = fresh(variant("dense_mlp", start="base_mlp"))
    assert isinstance(layer, DenseMLP)
    x = torch.randn(5, site.d_in, generator=torch.Generator().manual_seed(0))
    dense = site.dense_weights()
    assert dense.bias is not None
    with torch.no_grad():
        torch.testing.assert_close(layer(x) + dense.bias, site.module(x))


def test_base_mlp_start_of_another_width_is_refused_before_the_text_is_read(
    model, tokenizer
) -> None:
    recipe = tiny_recipe(students=(variant(start="base_mlp", d_hidden=40),))

    def unread() -> Any:
        raise AssertionError("the text was read")
        yield

    with pytest.raises(UserError, match="start base_mlp with d_hidden=40, expected the 128 hidden"):
        fit(model, tokenizer, recipe, documents=unread())


def test_random_decoder_starts_like_nn_linear() -> None:
    plain, changed = fresh(variant(random_k=True)), fresh(variant(start="random_decoder"))
    assert isinstance(changed, MxD)
    assert not plain.decoder.any()
    bound = changed.config.d_hidden**-0.5
    assert 0.99 * bound < changed.decoder.abs().max() <= bound
    assert abs(changed.decoder.std() / (bound / 3**0.5) - 1) < 0.05
    rest = {name for name, _ in plain.named_parameters()} - {"decoder"}
    assert all(torch.equal(plain.get_parameter(name), changed.get_parameter(name)) for name in rest)


def test_unit_modulators_start_near_one() -> None:
    layer = fresh(variant(start="unit_modulators"))
    off = layer.modulators.detach() - 1
    assert 0 < off.abs().max() <= 24**-0.5 + 1e-6
    normed = fresh(variant(start="unit_modulators", unit_norm=True))
    torch.testing.assert_close(normed.modulators.norm(dim=-1).detach(), torch.ones(24))


def test_start_of_the_whole_recipe_leaves_layers_without_a_dense_branch() -> None:
    spec = StudentSpec(architecture="transcoder", k=3)
    layer = LayerRecipe(width=24, start="random_decoder")
    assert same_weights(fresh(spec), fresh(spec, layer=layer))
    dense = StudentSpec(architecture="mxd", k=3)
    assert fresh(dense, layer=layer).decoder.any()
