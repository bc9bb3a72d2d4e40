"""Recipes: the named ones, every check of a range, and the way through JSON and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mxd.data import ContextOptions, ExclusionOptions, TextOptions
from mxd.errors import UserError
from mxd.training import (
    BufferRecipe,
    LayerOverrides,
    LayerRecipe,
    OptimizerRecipe,
    Recipe,
    Schedule,
    StudentSpec,
    TextRecipe,
    named_recipe,
)
from mxd.training.recipes import changed
from mxd.training.run import from_dict

TEXT = TextRecipe(source="text.jsonl")
NAN = float("nan")


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"text": TEXT, "layers": (0,), **changes})


def text(**changes: Any) -> TextRecipe:
    return TextRecipe(source="text.jsonl", **changes)


def spec(**changes: Any) -> StudentSpec:
    return StudentSpec(**{"architecture": "mxd", **changes})


def test_paper_recipe_is_the_papers() -> None:
    paper = named_recipe("paper", TEXT, layers=(8,))
    schedule = Schedule.of(paper.optimizer, paper.tokens)
    assert paper.tokens == 480_000_000
    assert (paper.optimizer.default_lr, paper.optimizer.lr) == (1e-4, {})
    assert (schedule.warmup, schedule.decay) == (5000, 0)
    assert paper.optimizer.loss == "reference"
    assert (paper.optimizer.weight_decay, paper.optimizer.clip_norm) == (0.0, None)
    assert (paper.optimizer.batch_tokens, paper.text.contexts.length) == (4096, 128)
    assert (paper.buffer.contexts, paper.buffer.refill) == (128 * 32, 0.5)
    assert (paper.seed, paper.layer.expansion, paper.layer.random_k) == (42, 32, False)
    assert paper.text.exclusion.exclude_from_training == ()


def test_small_recipe_takes_many_small_steps_warms_up_for_4_percent_and_decays() -> None:
    small = named_recipe("small", TEXT, layers=(3,), tokens=512 * 500)
    assert Schedule.of(small.optimizer, small.tokens) == Schedule(500, 20, 100)
    assert small.optimizer.loss == "normalized_mse"
    assert small.name == "small"


@pytest.mark.parametrize("name", ["paper", "small"])
def test_named_recipe_takes_changes(name: str) -> None:
    made = named_recipe(name, TEXT, sites=("h.0",), tokens=7, students=(spec(k=5),))
    assert (made.tokens, made.students[0].k, made.sites, made.layers) == (7, 5, ("h.0",), ())


def test_named_recipe_of_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"'large'.*paper, small"):
        named_recipe("large", TEXT, layers=(0,))


def test_changed_keeps_fields_given_as_none() -> None:
    made = changed(recipe(), optimizer={"loss": "reference", "clip_norm": None}, layer={"width": 9})
    assert (made.optimizer.loss, made.optimizer.clip_norm, made.layer.width) == (
        "reference", None, 9,
    )  # fmt: skip


BAD: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (recipe, {"precision": "fp8"}, "precision 'fp8'"),
    (recipe, {"tokens": 0}, "tokens=0"),
    (recipe, {"log_every": 0}, "log_every=0"),
    (recipe, {"track_experts": -1}, "track_experts=-1"),
    (recipe, {"students": ()}, "no students"),
    (recipe, {"layers": ()}, "no layers"),
    (recipe, {"trackers": ("mlflow",)}, "tracker 'mlflow'"),
    (text, {"on_exhausted": "wait"}, "on_exhausted 'wait'"),
    (text, {"holdout": 0.0}, "holdout=0"),
    (text, {"holdout": 1.0}, "holdout=1"),
    (BufferRecipe, {"contexts": 0}, "contexts=0"),
    (BufferRecipe, {"harvest_contexts": 0}, "harvest_contexts=0"),
    (BufferRecipe, {"dtype": "float16"}, "dtype 'float16'"),
    (BufferRecipe, {"refill": 0.0}, "refill=0"),
    (BufferRecipe, {"refill": 1.1}, "refill=1.1"),
    (LayerRecipe, {"sparsity": "l0"}, "sparsity 'l0'"),
    (LayerRecipe, {"start": "warm"}, "start 'warm'"),
    (LayerOverrides, {"width": 0}, "width=0"),
    (LayerOverrides, {"activation": "sine"}, "activation 'sine'"),
    (LayerRecipe, {"activation": "sine"}, "activation 'sine'"),
    (LayerRecipe, {"expansion": 0.0}, "expansion=0"),
    (LayerRecipe, {"expansion": NAN}, "expansion=nan"),
    (LayerRecipe, {"width": 0}, "width=0"),
    (LayerRecipe, {"d_hidden": 0}, "d_hidden=0"),
    (LayerRecipe, {"shared_experts": -1}, "shared_experts=-1"),
    (OptimizerRecipe, {"loss": "mse"}, "loss 'mse'"),
    (OptimizerRecipe, {"batch_tokens": 0}, "batch_tokens=0"),
    (OptimizerRecipe, {"warmup_steps": -1}, "warmup_steps=-1"),
    (OptimizerRecipe, {"warmup_share": 1.5}, "warmup_share=1.5"),
    (OptimizerRecipe, {"decay_share": -0.1}, "decay_share=-0.1"),
    (OptimizerRecipe, {"default_lr": 0.0}, "learning rate 0.0 for default_lr"),
    (OptimizerRecipe, {"default_lr": NAN}, "learning rate nan"),
    (OptimizerRecipe, {"lr": {"mxd": -1.0}}, "learning rate -1.0 for mxd"),
    (OptimizerRecipe, {"lr": {"moe": 1e-3}}, "architecture 'moe'"),
    (OptimizerRecipe, {"weight_decay": -1.0}, "weight_decay=-1"),
    (OptimizerRecipe, {"betas": (0.9, 1.0)}, "betas="),
    (OptimizerRecipe, {"clip_norm": 0.0}, "clip_norm=0"),
    (OptimizerRecipe, {"l1_coefficient": -1.0}, "l1_coefficient=-1"),
    (OptimizerRecipe, {"auxk_coefficient": NAN}, "auxk_coefficient=nan"),
    (OptimizerRecipe, {"auxk_units": 0}, "auxk_units=0"),
    (OptimizerRecipe, {"dead_after_tokens": 0}, "dead_after_tokens=0"),
    (spec, {"architecture": "moe"}, "architecture 'moe'"),
    (spec, {"k": 0}, "k=0"),
    (spec, {"variant": "ReLU"}, "variant 'ReLU'"),
    (spec, {"variant": "a--b"}, "variant 'a--b'"),
    (spec, {"variant": "../x"}, "variant '../x'"),
    (spec, {"variant": "lr5"}, "variant 'lr5'"),
    (spec, {"options": LayerOverrides(width=3)}, "options width"),
    (spec, {"lr": 0.0}, "learning rate 0.0 for mxd"),
]


@pytest.mark.parametrize(("make", "fields", "named"), BAD, ids=[named for *_, named in BAD])
def test_recipe_out_of_range_names_the_value(
    make: Callable[..., Any], fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=f"(?s)^got {named}"):
        make(**fields)


FULL = Recipe(
    text=TextRecipe(
        source="a.jsonl",
        options=TextOptions(column="body", shuffle_documents=0),
        eval_source="b.jsonl",
        holdout=0.2,
        contexts=ContextOptions(length=16, separator="bos"),
        exclusion=ExclusionOptions(exclude_from_training=("bos", "w3")),
        on_exhausted="stop",
    ),
    layers=(0, 2),
    sites=("h.1.mlp",),
    students=(
        spec(k=4, seed=1, lr=2e-3),
        spec(architecture="dense_mlp"),
        spec(variant="other", options=LayerOverrides(random_k=True, start="base_mlp")),
    ),
    tokens=1000,
    layer=LayerRecipe(width=8, activation="relu", unit_norm=True),
    optimizer=OptimizerRecipe(lr={"mxd": 1e-3}, betas=(0.5, 0.6), clip_norm=1.0),
    buffer=BufferRecipe(dtype="bfloat16"),
    trackers=("wandb",),
)


@pytest.mark.parametrize("made", [FULL, named_recipe("paper", TEXT, layers=(8,))])
def test_recipe_through_json_comes_back_equal(made: Recipe) -> None:
    assert from_dict(Recipe, json.loads(json.dumps(made.to_dict())), Path("run.json")) == made


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (None, "tokens", "many"),
        (None, "tokens", None),
        (None, "tokens", True),
        (None, "tokens", -1),
        (None, "layers", 3),
        (None, "layers", "03"),
        (None, "layers", ["0"]),
        (None, "students", [3]),
        (None, "text", None),
        (None, "tocens", 3),
        ("text", "source", 5),
        ("text", "holdout", "half"),
        ("optimizer", "lr", [1]),
        ("optimizer", "lr", {"mxd": "fast"}),
        ("optimizer", "betas", [0.9, "x"]),
        ("layer", "width", 1.5),
    ],
)
def test_damaged_recipe_is_refused_with_its_place(part: str | None, field: str, value: Any) -> None:
    raw = json.loads(json.dumps(FULL.to_dict()))
    (raw if part is None else raw[part])[field] = value
    with pytest.raises(UserError, match=r"run\.json does not hold a Recipe"):
        from_dict(Recipe, raw, Path("run.json"))
