"""What an evaluation refuses, and which tokens a layer's own figures leave out."""

import pytest
import torch
from tests.evaluation._parts import SITE, random_layer, text
from tests.helpers.tiny_models import tiny_model

from mxd.errors import UserError
from mxd.evaluation import evaluate


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_named(value):
    model, passes = tiny_model("gpt2"), []

    def spoil(_module, _args, output):
        passes.append(output.shape)
        return output * value if len(passes) > 5 else output

    hook = model.get_submodule(SITE).register_forward_hook(spoil)
    try:
        with pytest.raises(UserError, match=rf"activations at site {SITE} in batch \d"):
            evaluate(model, {SITE: {"layer": random_layer("mxd")}}, text())
    finally:
        hook.remove()


def test_tokens_that_a_layer_was_not_trained_on_do_not_enter_its_own_figures(model):
    trained_on_all, without = random_layer("mxd"), random_layer("mxd")
    without.provenance.excluded_token_ids = (0,)
    layers = {SITE: {"all": trained_on_all, "without": without}}
    found = {entry.name: entry for entry in evaluate(model, layers, text(), bos_token_id=0).layers}
    assert found["without"].nmse == pytest.approx(found["all"].nmse_without_bos, rel=1e-6)
    assert found["without"].nmse != pytest.approx(found["all"].nmse, rel=1e-3)


def test_the_text_is_named(model):
    layers = {SITE: {"layer": random_layer("transcoder")}}
    assert evaluate(model, layers, text(), text="six contexts").to_dict()["text"] == "six contexts"
    assert evaluate(model, layers, text()).to_dict()["text"] is None


def test_layers_may_have_a_type_of_their_own(model):
    layers = {SITE: {"layer": random_layer("mxd").double()}}
    single = {SITE: {"layer": random_layer("mxd")}}
    assert layers[SITE]["layer"].bias.dtype == torch.float64
    found, expected = (evaluate(model, each, text()).layers[0] for each in (layers, single))
    assert found.nmse == pytest.approx(expected.nmse, rel=1e-4)
    assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-5)
