import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from tests.cli._parts import save_tokenizer, small
from tests.helpers.tiny_models import tiny_model


@pytest.mark.parametrize("name", ["nosuch", "owner/nosuch", "no/such/model", "./nowhere"])
def test_absent_model_is_refused(cli, text, name):
    cli.refuses(["fit", name, *small(text=text)], f"got '{name}'", "expected", "check the")


def test_unreachable_hub_is_refused_at_once(cli, text, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    cli.refuses(["fit", "owner/nosuch", *small(text=text)], "owner/nosuch", "hub cannot be reached")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        vocab_size=64,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    save_tokenizer(tmp_path / "bert")
    return tmp_path / "bert"


def test_encoder_is_refused(cli, text, bert):
    sentence = cli.refuses(["fit", bert, *small(text=text)], bert, "not a causal language model")
    assert "BertForMaskedLM" in sentence


def test_pickled_weights_are_refused(cli, text, saved, tmp_path):
    folder = shutil.copytree(saved("gpt2"), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    cli.refuses(["fit", folder, *small(text=text)], folder, "pytorch_model.bin", "safetensors")


def test_damaged_weights_are_refused(cli, text, saved, tmp_path):
    folder = shutil.copytree(saved("gpt2"), tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    cli.refuses(["fit", folder, *small(text=text)], folder, "damaged or truncated")


def test_model_without_a_tokenizer_is_refused(cli, text, saved, tmp_path):
    folder = shutil.copytree(saved("gpt2"), tmp_path / "model")
    for path in folder.glob("*token*"):
        path.unlink()
    cli.refuses(["fit", folder, *small(text=text)], folder, "has no tokenizer", "expected")


def test_folder_without_a_model_is_refused(cli, text, tmp_path):
    cli.refuses(["fit", tmp_path, *small(text=text)], tmp_path, "cannot be loaded", "expected")


def test_broken_weights_name_site_and_batch(cli, text, tmp_path):
    model = tiny_model("gpt2")
    model.get_submodule("transformer.h.1.mlp.c_fc").weight[0, 0] = float("inf")
    model.save_pretrained(tmp_path / "broken")
    save_tokenizer(tmp_path / "broken")
    named = ("NaN or infinite activations", "site transformer.h.1.mlp", "batch 1")
    cli.refuses(["fit", tmp_path / "broken", *small(text=text)], *named)


@pytest.mark.parametrize(("layers", "named"), [("7", "layer 7"), ("0,-1", "layer -1")])
def test_layer_out_of_range_gives_the_range(cli, text, saved, layers, named):
    arguments = ["fit", saved("gpt2"), *small(text=text, layers=layers)]
    cli.refuses(arguments, f"got {named}, expected 0 to 2", "choose one")


def test_no_layers_asks_for_some(cli, text, saved):
    arguments = ["fit", saved("gpt2"), *small(text=text, layers=None)]
    cli.refuses(arguments, "got no layers", "--layers", "--site")


def test_block_with_a_mixture_of_experts_is_named(cli, text, saved):
    arguments = ["fit", saved("mixtral"), *small(text=text)]
    cli.refuses(arguments, "model.layers.1", "mixture of experts", "--site")


def test_unknown_site_is_named(cli, text, saved):
    arguments = ["fit", saved("gpt2"), *small(text=text, layers=None, site="transformer.h.1.mpl")]
    cli.refuses(arguments, "'transformer.h.1.mpl'", "transformer.h.1.mlp")


def test_opaque_site_asks_for_what_cannot_be_read(cli, text, saved):
    flags = small(text=text, layers=None, site="model.layers.1.mlp")
    cli.refuses(["fit", saved("mixtral"), *flags], "model.layers.1.mlp", "d_hidden")


def test_contexts_longer_than_the_model_has_positions_for_are_refused(cli, text, saved):
    arguments = ["fit", saved("gpt2"), *small(text=text, context=65)]
    cli.refuses(arguments, "65 tokens", "at most the 64", "shorter contexts")


def test_tokens_outside_the_vocabulary_are_refused(cli, text, saved, tmp_path):
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=40, bos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "narrow")
    save_tokenizer(tmp_path / "narrow")
    arguments = ["fit", tmp_path / "narrow", *small(text=text)]
    cli.refuses(arguments, "got token id", "expected 0 to 39", "tokenizer")
