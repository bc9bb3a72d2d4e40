import json

import pytest
import torch
import transformers
from tests.helpers.tiny_models import tiny_model

from mxd.errors import UserError
from mxd.host import find_mlps
from mxd.host.skeleton import MOST_BLOCKS, load_skeleton, skeleton_of


def test_a_config_alone_is_enough(tmp_path):
    model = tiny_model("llama")
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    skeleton = load_skeleton(tmp_path)
    assert all(p.is_meta for p in skeleton.parameters())
    assert {n: p.shape for n, p in skeleton.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    assert len(find_mlps(skeleton)) == 3


@pytest.mark.parametrize(
    ("asked", "found"),
    [("auto", torch.bfloat16), ("float32", torch.float32), (None, torch.float16)],
)
def test_precision_is_the_stated_or_the_asked_one(asked, found):
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, dtype="bfloat16")
    skeleton = skeleton_of(config, dtype=found if asked is None else asked)
    assert {p.dtype for p in skeleton.parameters()} == {found}


def config_of(folder, **changes):
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=16, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": MOST_BLOCKS + 1}, str(MOST_BLOCKS)),
        ({"num_hidden_layers": 0}, "0 blocks"),
        ({"hidden_size": -8}, "cannot be loaded"),
        ({"hidden_size": 2**62}, "cannot be loaded"),
        ({"hidden_act": "no_such_activation"}, "cannot be loaded"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "causal language model"),
        ({"model_type": "nonsense"}, "cannot be loaded"),
    ],
)
def test_configurations_of_no_model_are_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        load_skeleton(config_of(tmp_path, **changes))


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_skeleton(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        load_skeleton(tmp_path / "none")
