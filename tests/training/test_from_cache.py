"""Training from a cache of activations: the same layers as from the text, and what is refused."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.tiny_models import tiny_model
from tests.training._parts import SITE, rows_of, same_weights, tiny_recipe

import mxd
from mxd.data import ContextOptions, ExclusionOptions, open_documents, read_manifest
from mxd.errors import UserError
from mxd.training import (
    BufferRecipe,
    HarvestRecipe,
    TextRecipe,
    cached_text,
    evaluation_documents,
    fit,
    harvest,
    open_run,
    training_documents,
)

TEXT = TextRecipe(source="documents", contexts=ContextOptions(length=16))


def harvest_recipe(**changes) -> HarvestRecipe:
    fields = {
        "text": TEXT,
        "layers": (0, 1),
        "tokens": 10_000,
        "dtype": "float32",
        "harvest_contexts": 8,
        "shard_bytes": 70_000,
    }
    return HarvestRecipe(**{**fields, **changes})


@pytest.fixture(scope="module")
def caches(tmp_path_factory, model, tokenizer, documents) -> dict[str, Path]:
    """A cache of every document in each type."""
    folder = tmp_path_factory.mktemp("caches")
    for dtype in ("float32", "bfloat16"):
        harvest(model, tokenizer, harvest_recipe(dtype=dtype), folder / dtype, documents=documents)
    return {path.name: path for path in folder.iterdir()}


def from_cache(folder: Path, *architectures: str, **changes):
    fields = {
        "text": cached_text(folder, read_manifest(folder)),
        "activations": str(folder),
        "activations_order": "harvested",
    }
    return tiny_recipe(*architectures, **{**fields, **changes})


def weights(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.mark.parametrize(("dtype", "tokens"), [("float32", 768), ("bfloat16", 2700)])
def test_cache_trains_the_same_layers_bit_for_bit(
    caches, model, tokenizer, documents, tmp_path, dtype, tokens
) -> None:
    """768 tokens are a part of the text, 2,700 more than all of it."""
    buffer = BufferRecipe(contexts=16, harvest_contexts=8, dtype=dtype)
    changes = {"buffer": buffer, "tokens": tokens, "track_experts": 0}
    recipe = from_cache(caches[dtype], "mxd", "transcoder", **changes)
    live = replace(recipe, activations=None)
    cached = fit(model, tokenizer, recipe, out=tmp_path / "cached")
    streamed = fit(model, tokenizer, live, out=tmp_path / "live", documents=documents)
    assert weights(tmp_path / "cached") == weights(tmp_path / "live")
    assert len(weights(tmp_path / "live")) == 4  # two layers with their statistics
    assert rows_of(tmp_path / "cached") == rows_of(tmp_path / "live")
    assert cached.record["data"] == streamed.record["data"]
    assert cached.record["data"]["epochs"] == (1 if tokens == 768 else 2)


def test_shuffled_cache_trains_other_layers_on_the_same_rows(caches, model, tokenizer) -> None:
    recipe = from_cache(caches["float32"])
    plain = fit(model, tokenizer, recipe)
    mixed, again, other = (
        fit(model, tokenizer, replace(recipe, activations_order="shuffled", **changes))
        for changes in ({}, {}, {"seed": 1, "text": recipe.text})
    )
    for name, layer in plain.layers[SITE].items():
        assert same_weights(mixed.layers[SITE][name], again.layers[SITE][name])
        assert not same_weights(layer, mixed.layers[SITE][name])
        assert not same_weights(other.layers[SITE][name], mixed.layers[SITE][name])


def test_model_is_not_run(caches, tokenizer) -> None:
    host = tiny_model("gpt2")
    host.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    run = fit(host, tokenizer, from_cache(caches["float32"]))
    assert run.record["data"]["tokens_trained"] == 768


def test_record_names_the_cache(caches, model, tokenizer, tmp_path) -> None:
    fit(model, tokenizer, from_cache(caches["float32"]), out=tmp_path / "run")
    run, manifest = open_run(tmp_path / "run"), read_manifest(caches["float32"])
    assert run.record["activations"] == {
        "folder": str(caches["float32"]),
        "data_fingerprint": manifest.data_fingerprint,
        "tokens": manifest.tokens,
        "dtype": "float32",
        "ended_because": "text",
    }
    assert manifest.device == "cpu"
    assert run.recipe.activations == str(caches["float32"])


def test_excluded_tokens_are_left_out_as_from_text(caches, model, tokenizer, documents) -> None:
    text = replace(
        cached_text(caches["float32"], read_manifest(caches["float32"])),
        exclusion=ExclusionOptions(exclude_from_training=("bos", "w5")),
    )
    recipe = from_cache(caches["float32"], text=text)
    cached = fit(model, tokenizer, recipe)
    live = fit(model, tokenizer, replace(recipe, activations=None), documents=documents)
    for name, layer in live.layers[SITE].items():
        assert same_weights(layer, cached.layers[SITE][name])


def test_end_of_the_cache_can_end_the_run(caches, model, tokenizer) -> None:
    text = replace(
        cached_text(caches["float32"], read_manifest(caches["float32"])), on_exhausted="stop"
    )
    run = fit(model, tokenizer, from_cache(caches["float32"], text=text, tokens=100_000))
    tokens = read_manifest(caches["float32"]).tokens
    assert run.record["data"]["tokens_trained"] == tokens


def test_prefetching_changes_nothing(caches, model, tokenizer, documents, tmp_path) -> None:
    for name, cache in (("live", None), ("cached", caches["float32"])):
        recipe = from_cache(caches["float32"], tokens=1500, track_experts=0)
        given = {}
        if cache is None:
            recipe, given = replace(recipe, activations=None), {"documents": documents}
        runs = []
        for ahead in (0, 2):
            buffer = replace(recipe.buffer, prefetch=ahead)
            out = tmp_path / f"{name}{ahead}"
            runs.append(fit(model, tokenizer, replace(recipe, buffer=buffer), out=out, **given))
        assert weights(tmp_path / f"{name}0") == weights(tmp_path / f"{name}2")
        assert runs[0].record["data"] == runs[1].record["data"]
    assert not [thread for thread in threading.enumerate() if thread.name == "mxd-prefetch"]


def test_prefetching_thread_ends_with_an_interrupted_run(model, tokenizer, documents) -> None:
    def interrupt(_progress) -> None:
        raise KeyboardInterrupt

    buffer = BufferRecipe(contexts=16, harvest_contexts=8, prefetch=2)
    with pytest.raises(KeyboardInterrupt):
        fit(
            model, tokenizer, tiny_recipe(buffer=buffer), documents=documents,
            on_progress=interrupt,
        )  # fmt: skip
    assert not [thread for thread in threading.enumerate() if thread.name == "mxd-prefetch"]


def test_text_on_disk_is_split_as_in_training(model, tokenizer, documents, tmp_path) -> None:
    """Documents that are held out are not in the cache, whatever the seed of the training."""
    path = tmp_path / "docs"
    path.mkdir()
    for number, document in enumerate(documents):
        (path / f"{number:03}.txt").write_text(document.text or "", encoding="utf-8")
    text = replace(TEXT, source=str(path), holdout=0.3)
    manifest = mxd.harvest(model, tokenizer, harvest_recipe(text=text, seed=7), tmp_path / "cache")
    assert manifest.text["split_seed"] == 7
    recipe = from_cache(tmp_path / "cache", seed=3, tokens=640)
    held_out = {document.key for document in evaluation_documents(recipe.text, recipe.seed)}
    trained = {document.key for document in training_documents(text, 7)}
    assert not held_out & trained
    assert held_out | trained == {document.key for document in open_documents(str(path))}
    run = fit(model, tokenizer, recipe)
    live = replace(recipe, activations=None)
    assert run.record["data"] == fit(model, tokenizer, live).record["data"]


def test_another_model_is_refused(caches, tokenizer) -> None:
    with pytest.raises(UserError, match=r"with weights \w{16} at transformer.h.1.mlp, expected"):
        fit(tiny_model("gpt2", seed=1), tokenizer, from_cache(caches["float32"]))


def test_another_revision_is_refused(model, tokenizer, documents, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(model.config, "_commit_hash", "a" * 40, raising=False)
    harvest(model, tokenizer, harvest_recipe(), tmp_path / "c", documents=documents)
    monkeypatch.setattr(model.config, "_commit_hash", "b" * 40)
    with pytest.raises(UserError, match=r"harvested from revision a{40}, expected .* b{40}"):
        fit(model, tokenizer, from_cache(tmp_path / "c"))


def test_another_tokenizer_is_refused(caches, model, tokenizer) -> None:
    other = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, unk_token="[UNK]", bos_token="w5"
    )
    with pytest.raises(UserError, match="harvested with another tokenizer"):
        fit(model, other, from_cache(caches["float32"]))


def test_site_that_was_not_harvested_is_refused(caches, model, tokenizer) -> None:
    with pytest.raises(UserError, match=r"got site transformer.h.2.mlp, expected one of .*h.0.mlp"):
        fit(model, tokenizer, from_cache(caches["float32"], layers=(2,)))


def test_other_text_is_refused(caches, model, tokenizer) -> None:
    recipe = from_cache(caches["float32"], text=replace(TEXT, contexts=ContextOptions(length=8)))
    with pytest.raises(UserError, match=r"contexts: .*'length': 16.* there, .*'length': 8.* here"):
        fit(model, tokenizer, recipe)


def test_documents_beside_a_cache_are_refused(caches, model, tokenizer, documents) -> None:
    with pytest.raises(UserError, match="got documents beside a cache"):
        fit(model, tokenizer, from_cache(caches["float32"]), documents=documents)


def test_unfinished_cache_is_refused(model, tokenizer, documents, tmp_path) -> None:
    def stop(progress) -> None:
        if progress.new_tokens > 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(
            model, tokenizer, harvest_recipe(), tmp_path / "c", documents=documents,
            on_progress=stop,
        )  # fmt: skip
    assert len(read_manifest(tmp_path / "c").shards) >= 1
    with pytest.raises(UserError, match=r"is not finished: it holds 640 of 10,000 tokens"):
        fit(model, tokenizer, from_cache(tmp_path / "c"))


def test_damaged_cache_leaves_no_run(caches, model, tokenizer, documents, tmp_path) -> None:
    harvest(model, tokenizer, harvest_recipe(), tmp_path / "c", documents=documents)
    path = tmp_path / "c" / "shard-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    recipe = from_cache(tmp_path / "c")
    with pytest.raises(UserError, match=r"shard-00000.* SHA-256"):
        fit(model, tokenizer, recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fit(model, tokenizer, replace(recipe, verify_activations=False), out=tmp_path / "run")


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float16"},
        {"tokens": 0},
        {"max_size": 0},
        {"harvest_contexts": 0},
        {"harvest_contexts": (1 << 22) // 16 + 1},
        {"prefetch": -1},
        {"shard_bytes": 0},
        {"layers": ()},
    ],
)
def test_harvest_option_out_of_range_is_refused(options) -> None:
    name = next(iter(options))
    with pytest.raises(UserError, match=name):
        harvest_recipe(**options)
