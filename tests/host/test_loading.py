"""Loading: what is loaded is frozen, and what is refused is explained in a sentence."""

import json
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from tests.helpers.tiny_models import tiny_model, tiny_tokens
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

from mxd.errors import UserError
from mxd.host import check_device, load_model, load_tokenizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_model("gpt2").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_load_model_is_frozen_and_the_same(saved: Path) -> None:
    model = load_model(saved)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32
    assert torch.equal(
        model(tiny_tokens()).logits, tiny_model("gpt2")(tiny_tokens()).logits.detach()
    )


def test_load_model_takes_a_precision(saved: Path) -> None:
    assert load_model(str(saved), dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(saved, dtype=torch.bfloat16).dtype == torch.bfloat16
    tiny_model("gpt2").to(torch.float16).save_pretrained(saved)
    assert load_model(saved, dtype="auto").dtype == torch.float16
    assert load_model(saved).dtype == torch.float32
    with pytest.raises(UserError, match="int8"):
        load_model(saved, dtype="int8")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere-at-all"])
def test_paths_that_do_not_exist_are_refused(name: str) -> None:
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match="does not exist"):
            load(name)


def test_hub_out_of_reach_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hub cannot be reached"):
        load_model("nobody/no-model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(UserError, match="hub cannot be reached"):
        load_tokenizer("nobody/no-model")
    assert time.monotonic() - started < 10


def test_folders_that_are_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(UserError, match="JSON"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="no weights"):
        load_model(tmp_path)


def test_pickled_weights_are_refused(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    torch.save({}, saved / "pytorch_model.bin")
    with pytest.raises(UserError, match="unpickling can run any code"):
        load_model(saved)


def test_broken_weights_are_refused(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(UserError, match="damaged or truncated"):
        load_model(saved)


@pytest.mark.parametrize("model_class", [BertForMaskedLM, BertModel])
def test_encoders_are_refused(tmp_path: Path, model_class: type) -> None:
    config = BertConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        vocab_size=16,
    )
    model_class(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not a causal language model"):
        load_model(tmp_path)


def test_load_tokenizer_loads(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).encode("b") == [1]


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "cpu:1:2"])
def test_devices_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="expected one of cpu"):
        check_device(name)


def test_cpu_is_there() -> None:
    assert check_device("cpu") == torch.device("cpu")
    assert check_device(torch.device("cpu")).type == "cpu"
