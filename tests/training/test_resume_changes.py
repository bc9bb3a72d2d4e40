"""A run goes on with what it was begun with; what changed is named, or taken into account."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers.tiny_models import VOCABULARY
from tests.training._parts import tiny_recipe
from tests.training.test_resume import EVERY, died_at, weights
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mxd import harvest
from mxd.data import ContextOptions
from mxd.errors import UserError
from mxd.training import (
    CheckpointOptions,
    HarvestRecipe,
    TextRecipe,
    cached_text,
    finished_manifest,
    fit,
)
from mxd.training.checkpoints import saved_steps


@pytest.fixture(scope="module")
def saved(model, tokenizer, documents, tmp_path_factory) -> Path:
    """A finished run with all of its checkpoints."""
    out = tmp_path_factory.mktemp("saved") / "run"
    fit(model, tokenizer, tiny_recipe(), documents=documents, out=out, checkpoints=EVERY)
    return out


def test_text_changed_in_the_group_that_is_read_is_noticed(
    saved, model, tokenizer, documents, tmp_path
):
    out = died_at(saved, 4, tmp_path / "run")
    other = [d._replace(text=documents[(i + 7) % 60].text) for i, d in enumerate(documents)]
    with pytest.raises(UserError, match="the text is not what it was"):
        fit(model, tokenizer, tiny_recipe(), documents=other, out=out, resume=True)
    fit(model, tokenizer, tiny_recipe(), documents=documents, out=out, resume=True)
    assert weights(out) == weights(saved)  # nothing of what is saved was lost


def reversed_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<s>", "</s>", "[UNK]", *(f"w{i}" for i in reversed(range(3, VOCABULARY)))]
    vocabulary = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", bos_token="<s>", eos_token="</s>"
    )


def test_model_changed_outside_its_mlps_and_tokenizer_are_noticed(
    saved, model, tokenizer, documents, tmp_path
):
    out = died_at(saved, 4, tmp_path / "run")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.transformer.wpe.weight[3, 1] += 1e-3
    for now, words, what in (
        (other, tokenizer, "other weights of it are not"),
        (copy.deepcopy(model).bfloat16(), tokenizer, "a model in float32, and this one is in bf"),
        (model, reversed_tokenizer(), "begun on another tokenizer"),
    ):
        with pytest.raises(UserError, match=what):
            fit(now, words, tiny_recipe(), documents=documents, out=out, resume=True)
    assert saved_steps(out)[0] == 4


def test_cache_that_was_harvested_anew_is_noticed(model, tokenizer, documents, tmp_path):
    text = TextRecipe(source="d", contexts=ContextOptions(length=16))
    cache = tmp_path / "cache"

    def harvested(shard_bytes: int) -> None:
        shutil.rmtree(cache, ignore_errors=True)
        kept = HarvestRecipe(
            text=text, layers=(1,), tokens=512, harvest_contexts=4, dtype="float32",
            shard_bytes=shard_bytes,
        )  # fmt: skip
        harvest(model, tokenizer, kept, cache, documents=documents)

    harvested(20_000)
    text_there = cached_text(cache, finished_manifest(cache))
    recipe = tiny_recipe(text=text_there, tokens=512, activations=str(cache))
    every = CheckpointOptions(every_steps=3)
    fit(model, tokenizer, recipe, out=tmp_path / "saved", checkpoints=every)
    out = died_at(tmp_path / "saved", 6, tmp_path / "run")
    harvested(40_000)
    with pytest.raises(UserError, match=r"another cache of activations .*\(other shards\)"):
        fit(model, tokenizer, recipe, out=out, resume=True)
    harvested(20_000)  # the same once more
    fit(model, tokenizer, recipe, out=out, resume=True)
    assert weights(out) == weights(tmp_path / "saved")


def test_smaller_budget_ends_there_and_one_that_is_passed_is_refused(
    saved, model, tokenizer, documents, tmp_path
):
    # 320 is more than the buffer holds, and 192 is less.
    for step, tokens in ((4, 320), (2, 192), (2, 128)):
        out = died_at(saved, step, tmp_path / str(tokens))
        run = fit(
            model, tokenizer, tiny_recipe(tokens=tokens), documents=documents, out=out,
            resume=True, accept_changes=["tokens"],
        )  # fmt: skip
        assert run.record["data"]["tokens_trained"] == tokens
    out = died_at(saved, 6, tmp_path / "passed")
    with pytest.raises(UserError, match=r"tokens=320 .* trained on 384 already.*raise tokens"):
        fit(
            model, tokenizer, tiny_recipe(tokens=320), documents=documents, out=out, resume=True,
            accept_changes=["tokens"],
        )  # fmt: skip
    assert saved_steps(out)[0] == 6


def test_larger_budget_lets_a_small_buffer_grow(model, tokenizer, documents, tmp_path):
    small = tiny_recipe(tokens=128)  # the buffer's 256 tokens are more than that
    fit(model, tokenizer, small, documents=documents, out=tmp_path / "small", checkpoints=EVERY)
    larger = replace(small, tokens=768)
    grown = {"accept_changes": ["tokens"], "documents": documents, "resume": True}
    out = died_at(tmp_path / "small", 1, tmp_path / "run")
    run = fit(model, tokenizer, larger, out=out, checkpoints=EVERY, **grown)
    assert run.record["data"]["tokens_trained"] == 768
    for step in (2, 5):  # while it grows, and after
        again = died_at(out, step, tmp_path / str(step))
        fit(model, tokenizer, larger, out=again, **grown)
        assert weights(again) == weights(out)
