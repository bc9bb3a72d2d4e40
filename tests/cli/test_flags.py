from typing import Any

import pytest

from mxd.cli.fit import fit_layers, recipe_from_flags
from mxd.training import Recipe, StudentSpec


def recipe_of(*arguments: object) -> Recipe:
    """The recipe that `mxd fit MODEL --text t --layers 1 …` trains."""
    line = ["model", "--text", "t", "--layers", "1", *(str(a) for a in arguments)]
    flags: dict[str, Any] = dict(fit_layers.make_context("fit", line).params)
    return recipe_from_flags(flags)


def test_lists_multiply():
    recipe = recipe_of("--arch", "mxd,transcoder", "--k", "4,8")
    assert recipe.students == tuple(
        StudentSpec(architecture=a, k=k) for a in ("mxd", "transcoder") for k in (4, 8)
    )


def test_seeds_multiply_too_and_the_first_orders_the_text():
    recipe = recipe_of("--arch", "mxd,transcoder", "--k", "4,8", "--seed", "7,1")
    assert len(set(recipe.students)) == 8
    assert {student.seed for student in recipe.students} == {1, 7}
    assert recipe.seed == 7


def test_several_rates_multiply_and_one_rate_is_the_recipe_s():
    recipe = recipe_of("--arch", "mxd", "--lr", "1e-3,2e-3")
    assert [student.lr for student in recipe.students] == [1e-3, 2e-3]
    single = recipe_of("--arch", "mxd,transcoder", "--lr", "2e-3")
    assert [student.lr for student in single.students] == [None, None]
    assert single.optimizer.learning_rate("mxd") == 2e-3
    assert single.optimizer.learning_rate("transcoder") == 2e-3


def test_repeated_items_and_spaces_of_a_list_count_once():
    recipe = recipe_of("--arch", "mxd", "--k", "4, 8,4")
    assert [student.k for student in recipe.students] == [4, 8]


@pytest.mark.parametrize(
    ("typed", "meant"), [("2e6", 2_000_000), ("4096", 4096), ("1.5e3", 1500), ("1_000", 1000)]
)
def test_counts_may_be_written_short(typed, meant):
    assert recipe_of("--tokens", typed).tokens == meant


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "paper"),
        (["--tokens", "1e6"], "small"),
        (["--tokens", 9_999 * 4096], "small"),
        (["--tokens", 10_000 * 4096], "paper"),
        (["--tokens", 1e6, "--batch-tokens", 64], "paper"),
        (["--tokens", 1e6, "--recipe", "paper"], "paper"),
        (["--tokens", 1e9, "--recipe", "small"], "small"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_automatic_recipe_depends_on_the_number_of_steps(flags, name):
    assert recipe_of(*flags).name == name


def test_named_recipes_differ_and_flags_win_over_both():
    paper, small = recipe_of("--recipe", "paper"), recipe_of("--recipe", "small")
    assert paper.optimizer.loss == "reference"
    assert small.optimizer.loss == "normalized_mse"
    assert small.optimizer.lr != paper.optimizer.lr
    changed = recipe_of("--recipe", "small", "--loss", "reference", "--clip-norm", 3)
    assert changed.optimizer.loss == "reference"
    assert changed.optimizer.clip_norm == 3


_EVERYTHING = {
    "arch": ["mxd", "transcoder"],
    "k": [3, 5],
    "seed": 7,
    "lr": [0.001, 0.002],
    "tokens": "2e6",
    "batch_tokens": 512,
    "width": 40,
    "d_hidden": 24,
    "activation": "gelu",
    "shared_experts": 1,
    "holdout": 0.25,
    "context": 64,
    "separator": "bos",
    "doc_column": "id",
    "exclude_from_training": ["bos", "eos"],
    "on_exhausted": "stop",
    "precision": "bf16",
    "clip_norm": 2.0,
    "auxk_coefficient": 0.03,
    "buffer_contexts": 32,
    "log_every": 5,
}


def _as_line(flags: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in flags.items():
        shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += [f"--{name.replace('_', '-')}", shown]
    return words


def _as_yaml(flags: dict[str, Any], dash: str) -> str:
    return "".join(f"{name.replace('_', dash)}: {value}\n" for name, value in flags.items())


@pytest.mark.parametrize("dash", ["-", "_"], ids=["dashes", "underscores"])
def test_config_file_equals_flags(tmp_path, dash):
    path = tmp_path / "flags.yaml"
    path.write_text(_as_yaml(_EVERYTHING, dash) + "random-k: true\n", encoding="utf-8")
    assert recipe_of("--config", path) == recipe_of(*_as_line(_EVERYTHING), "--random-k")


def test_lists_of_a_config_file_may_be_strings(tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("k: 3,5\narch: mxd\nseed: [1, 2]\n", encoding="utf-8")
    expected = recipe_of("--k", "3,5", "--arch", "mxd", "--seed", "1,2")
    assert recipe_of("--config", path) == expected


def test_flags_win_over_the_config_file(tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("k: [3, 5]\nwidth: 40\nunit-norm: true\n", encoding="utf-8")
    recipe = recipe_of("--k", "9", "--config", path, "--arch", "mxd")
    assert [student.k for student in recipe.students] == [9]
    assert recipe.layer.width == 40
    assert recipe.layer.unit_norm


def test_empty_value_of_a_config_file_leaves_the_default(tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("k:\nwidth: null\n", encoding="utf-8")
    assert recipe_of("--config", path) == recipe_of()


def test_config_may_hold_what_is_required(cli, saved, text, tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text(
        f"text: {text}\nlayers: 1\narch: mxd\nk: 3\nwidth: 24\ncontext: 16\ntokens: 256\n"
        f"batch-tokens: 64\nout: {tmp_path / 'run'}\njson: {tmp_path / 'run.json'}\n",
        encoding="utf-8",
    )
    cli.succeeds("fit", saved("gpt2"), "--config", path)
    assert (tmp_path / "run" / "layers" / "transformer.h.1.mlp" / "mxd-k3-w24-s42").is_dir()
    assert (tmp_path / "run.json").is_file()
