import pytest
from tests.helpers.tiny_models import tiny_model

from mxd.errors import UserError
from mxd.host import find_mlps
from mxd.host.skeleton import skeleton_of
from mxd.planning import describe_model
from mxd.planning.weights import stated_quantisation


def described(arch, **more):
    model = tiny_model(arch).to("meta").bfloat16()
    model.config.quantization_config = more.pop("stated", None)
    sites = find_mlps(model)
    return describe_model(model, sites, name=arch, contexts=1, length=8, **more), model


def linear_weights(model):
    head = model.get_output_embeddings()
    return sum(
        module.weight.numel()
        for module in model.modules()
        if type(module).__name__ in ("Linear", "Conv1D") and module is not head
    )


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize(("load_in", "element"), [("8bit", 1), ("4bit", 0.5625)])
def test_linear_weights_are_packed_and_the_rest_is_not(arch, load_in, element):
    shape, model = described(arch, load_in=load_in)
    linear = linear_weights(model)
    assert linear > shape.parameters / 2
    assert shape.weight_bytes == 2 * (shape.parameters - linear) + element * linear
    assert shape.weight_bytes_run < shape.weight_bytes
    assert shape.file_bytes == 2 * shape.parameters
    assert shape.quantised == load_in


def test_a_configuration_may_say_it():
    stated = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    said, _ = described("llama", stated=stated)
    given, _ = described("llama", load_in="4bit")
    assert (said.weight_bytes, said.quantised) == (given.weight_bytes, "4bit")
    assert said.file_bytes == said.weight_bytes < given.file_bytes


def test_other_ways_of_quantising_are_named_and_not_counted():
    shape, _ = described("llama", stated={"quant_method": "gptq", "bits": 4})
    assert (shape.quantised, shape.weight_bytes) == ("gptq", 2 * shape.parameters)


def test_nothing_stated_is_nothing():
    model = tiny_model("gpt2")
    assert stated_quantisation(model) is None
    model.config.quantization_config = {"quant_method": 3}
    assert stated_quantisation(model) == "3"


def test_widths_beyond_belief_are_blamed_on_the_configuration():
    config = tiny_model("gpt2").config
    config.n_inner = 10**9
    model = skeleton_of(config)
    with pytest.raises(UserError, match=r"1,000,000,000 units .* look at its config\.json"):
        describe_model(model, find_mlps(model), name="m", contexts=1, length=8)
