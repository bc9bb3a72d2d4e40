"""Folders of models that somebody else made: nothing but their own safetensors is read."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tests.cli._parts import save_tokenizer
from tests.helpers.tiny_models import tiny_model, tiny_tokens

from mxd.errors import UserError
from mxd.host import load_model, load_tokenizer
from mxd.host.skeleton import load_skeleton

INDEX = "model.safetensors.index.json"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_model("gpt2").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    return tmp_path / "sharded"


@pytest.fixture(autouse=True)
def _no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", never)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(folder: Path | str, arch: str) -> bool:
    ids = tiny_tokens()
    return torch.equal(load_model(folder)(ids).logits, tiny_model(arch)(ids).logits)


def test_shards_are_loaded(sharded: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert same(sharded, "llama")


def test_index_that_names_a_pickle_is_refused(saved: Path) -> None:
    held = weights(saved)
    (saved / "model.safetensors").rename(saved / "decoy.safetensors")
    (saved / "w.bin").write_bytes(b"\x80\x04K\x01.")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(held, "w.bin")}
    (saved / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names the file 'w.bin', expected safetensors"):
        load_model(saved)


@pytest.mark.parametrize(
    "weight_map",
    [[1], {}, {"a": 5}, {"a": "../outside.safetensors"}, {"a": "/w.safetensors"}, {"a": "b\\c"},
     {"a": "gone.safetensors"}, {"a": "a\0b.safetensors"}, None],
)  # fmt: skip
def test_index_that_leads_elsewhere_or_nowhere_is_refused(sharded: Path, weight_map: Any) -> None:
    shutil.copy(next(sharded.glob("*.safetensors")), sharded.parent / "outside.safetensors")
    change(sharded / INDEX, weight_map=weight_map)
    with pytest.raises(UserError, match=r"index\.json"):
        load_model(sharded)


def test_index_that_is_no_object_is_refused(sharded: Path) -> None:
    (sharded / INDEX).write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        load_model(sharded)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_links_out_of_the_folder_are_refused(saved: Path, name: str) -> None:
    (saved / name).rename(saved.parent / name)
    (saved / name).symlink_to(saved.parent / name)
    with pytest.raises(UserError, match="link out of its folder"):
        load_model(saved)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adapter_config.json", "adapter"),
        ("shard-00000-model-00001-of-00001.safetensors", "distributed checkpoint"),
    ],
)
def test_files_that_transformers_would_rather_read_are_refused(
    saved: Path, name: str, said: str
) -> None:
    (saved / name).write_text('{"base_model_name_or_path": "nobody/other"}')
    with pytest.raises(UserError, match=said):
        load_model(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"transformers_weights": "adapter_model.bin"},
        {"configuration_files": ["config.4.0.0.json"]},
        {"attn_implementation": "kernels-community/evil"},
        {"text_config": {"_attn_implementation": "evil/kernel"}},
        {"architectures": [1]},
        {"architectures": "GPT2LMHeadModel"},
        {"n_layer": 3.7},
        {"n_layer": "many"},
        {"n_layer": True},
        {"n_layer": 0},
        {"n_embd": 33},
        {"activation_function": "os.system"},
    ],
    ids=str,
)
def test_configurations_of_no_model_are_refused(saved: Path, changes: dict[str, Any]) -> None:
    change(saved / "config.json", **changes)
    for load in (load_model, load_skeleton):
        with pytest.raises(UserError, match=r"config\.json"):
            load(saved)


def test_layer_types_of_another_number_are_refused(tmp_path: Path) -> None:
    tiny_model("gemma3").save_pretrained(tmp_path)
    change(tmp_path / "config.json", layer_types=["full_attention"])
    with pytest.raises(UserError, match=r"look at its config\.json"):
        load_skeleton(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"model_type": "gpt2", "x": [' + "[]," * 1_100_000 + "[]]}", "lists and objects"),
        ('{"model_type": "gpt2", "model_type": "llama"}', "twice"),
        ('{"x": "' + "a" * (5 << 20) + '"}', "expected at most"),
        ("[" * 900 + "]" * 900, "nested deeper"),
    ],
    ids=["many", "twice", "large", "deep"],
)
def test_configuration_has_the_limits_of_json(saved: Path, content: str, said: str) -> None:
    (saved / "config.json").write_text(content)
    save_tokenizer(saved)
    for load in (load_model, load_skeleton, load_tokenizer):
        with pytest.raises(UserError, match=said):
            load(saved)


def test_blocks_that_no_file_holds_take_no_memory(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", never)
    for blocks, said in ((4, "describes .* numbers"), (400, "400 blocks")):
        change(saved / "config.json", n_layer=blocks)
        with pytest.raises(UserError, match=said):
            load_model(saved)


def test_tables_that_dwarf_the_weights_are_refused(tmp_path: Path) -> None:
    tiny_model("gptj").save_pretrained(tmp_path)
    change(tmp_path / "config.json", n_positions=10**9)
    with pytest.raises(UserError, match="tables of"):
        load_model(tmp_path)


def test_missing_weights_are_named(saved: Path) -> None:
    held = weights(saved)
    names = [name for name in held if "mlp" in name]
    for name in names:
        held[f"not.{name}"] = held.pop(name)
    save_file(held, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lack the weights .*mlp.* and 7 more") as caught:
        load_model(saved)
    assert str(caught.value).count("transformer.h.") == 5


def test_tied_weights_are_not_missed_and_a_missing_head_is(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    model.transformer.save_pretrained(tmp_path / "tied")  # without its head, which is tied
    assert same(tmp_path / "tied", "gpt2")
    tiny_model("llama").model.save_pretrained(tmp_path / "untied")
    with pytest.raises(UserError, match="numbers"):
        load_model(tmp_path / "untied")


def as_hub(folder: Path, cache: Path) -> str:
    """Put a model where the hub's client keeps what it fetched: links to blobs."""
    commit, repo = "0" * 40, cache / "models--nobody--tiny"
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (repo / part).mkdir(parents=True)
    (repo / "refs/main").write_text(commit)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, repo / f"blobs/{number}")
        (repo / f"snapshots/{commit}" / path.name).symlink_to(f"../../blobs/{number}")
    return "nobody/tiny"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_models_of_the_hub_are_loaded_through_its_links(
    tmp_path: Path, cache: Path, arch: str
) -> None:
    tiny_model(arch).save_pretrained(tmp_path / "made", max_shard_size="40KB")
    save_tokenizer(tmp_path / "made")
    name = as_hub(tmp_path / "made", cache)
    assert same(name, arch)
    assert load_model(name).config._commit_hash == "0" * 40
    assert load_tokenizer(name).encode("w5") == [5]
    assert same(cache / "models--nobody--tiny/snapshots" / ("0" * 40), arch)


def test_models_of_the_hub_are_looked_at_too(saved: Path, cache: Path) -> None:
    name = as_hub(saved, cache)
    place = cache / "models--nobody--tiny/snapshots" / ("0" * 40) / "model.safetensors"
    place.unlink()
    with pytest.raises(UserError, match="weights are not in the local cache"):
        load_model(name)
    place.symlink_to(saved / "model.safetensors")
    with pytest.raises(UserError, match="link out of its folder"):
        load_model(name)


def test_tokenizer_has_the_limits_of_json_and_plain_files(saved: Path) -> None:
    save_tokenizer(saved)
    settings = saved / "tokenizer_config.json"
    good = settings.read_text()
    for key in ("fast_tokenizer_files", "gguf_file"):
        change(settings, **{key: "../x.json"})
        with pytest.raises(UserError, match=key):
            load_tokenizer(saved)
        settings.write_text(good)
    settings.write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        load_tokenizer(saved)
    settings.write_text(good)
    change(settings, model_max_length="many")
    with pytest.raises(UserError, match=r"look at its tokenizer\.json"):
        load_tokenizer(saved)
    settings.write_text(good)
    (saved / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(saved)
    os.mkfifo(saved / "merges.txt")
    with pytest.raises(UserError, match=r"cannot|plain"):
        load_tokenizer(saved)
