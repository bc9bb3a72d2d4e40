"""A whole training on 1, 2 and 4 ranks is the same training, whoever dies and whoever goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training._parts import rows_of
from tests.training.distributed import _fit_checks
from tests.training.distributed.ranks import assert_done, run_ranks

from mxd.data import ContextOptions
from mxd.training import BufferRecipe, HarvestRecipe, TextRecipe, harvest
from mxd.training.checkpoints import saved_steps
from mxd.training.distributed import World

LOST = "LostProcessError: another process of this run was lost or did not answer in time"
FIGURES, WEIGHTS = 1e-4, 2e-5
"""Relative difference of metrics and absolute one of weights that rounding may make in 16 steps."""
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped, K drawn": {"optimizer": {"clip_norm": 0.5}, "layer": {"random_k": True}},
    "l1, unit norm": {
        "students": ("mxd", "transcoder"),
        "layer": {"sparsity": "l1", "unit_norm": True},
        "optimizer": {"loss": "reference", "l1_coefficient": 0.01},
    },
    "shared experts, parts": {
        "students": ("mxd", "mlp_transcoder"),
        "layer": {"shared_experts": 1},
        "optimizer": {"micro_tokens": 9},
    },
    "AuxK": {"optimizer": {"auxk_coefficient": 0.5, "dead_after_tokens": 64, "auxk_units": 4}},
    "AuxK, text that ends": {
        "optimizer": {"auxk_coefficient": 0.5, "dead_after_tokens": 64},
        "on_exhausted": "stop",
        "tokens": 9_999,
    },
    "bfloat16, one shard": {
        "buffer": BufferRecipe(contexts=16, harvest_contexts=4, dtype="bfloat16"),
        "text_shards": 1,
    },
    "shards that do not divide": {"text_shards": 3},
    "more shards than documents": {"text_shards": 64, "tokens": 512},
    "text that ends": {"on_exhausted": "stop", "tokens": 9_999, "log_every": 1},
}


def layers_of(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Weights and means of every layer."""
    files = sorted(run.glob("layers/*/*/*.safetensors"))
    assert files
    return {str(path.relative_to(run)): load_file(path) for path in files}


def same_bytes(one: Path, other: Path) -> None:
    for path in sorted(one.glob("layers/*/*/*.safetensors")):
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes(), path


def same_training(one: Path, other: Path) -> None:
    """The same loss curve and layers but for rounding, and the same record of the data."""
    expected, found = rows_of(one), rows_of(other)
    assert [list(row) for row in found] == [list(row) for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        for name, value in wanted.items():
            # A singular value near zero is only as exact as the largest one.
            near = pytest.approx(value, rel=FIGURES, abs=1e-6) if type(value) is float else value
            assert row[name] == near, (name, row, wanted)
    weights, wanted_weights = layers_of(other), layers_of(one)
    assert weights.keys() == wanted_weights.keys()
    for file, tensors in wanted_weights.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(weights[file][name], tensor, rtol=0, atol=WEIGHTS)
    records = [json.loads((run / "run.json").read_text()) for run in (one, other)]
    for key in ("data", "recipe", "students", "seeds", "complete"):
        assert records[0][key] == records[1][key], key


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of one process, by the name of their options."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("alone") / "run"
            _fit_checks.train(str(made[name]), OPTIONS[name])
        return made[name]

    return run


def ranks_train(ranks: int, out: Path, changes: Any, layout: str | None, **more: Any) -> list[str]:
    check = _fit_checks.trains_with
    return run_ranks(check, ranks, str(out), changes, layout, more, patience=120)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("data=2", "clipped, K drawn"), ("experts=2", "text that ends"), ("data=4", "plain"),
        ("data=4", "text that ends"), ("experts=4", "plain"),
        ("data=2,experts=2", "l1, unit norm"), ("data=2,experts=2", "shared experts, parts"),
        ("data=2,experts=2", "AuxK"), ("data=4", "AuxK, text that ends"),
        ("experts=4", "AuxK, text that ends"), ("data=2,students=2", "plain"),
        ("students=2,experts=2", "plain"), ("experts=2", "bfloat16, one shard"),
        ("data=2", "shards that do not divide"), ("data=4", "more shards than documents"),
    ],
)  # fmt: skip
def test_several_ranks_train_what_one_does(
    layout: str, name: str, alone: Any, tmp_path: Path
) -> None:
    ranks = 1
    for part in layout.split(","):
        ranks *= int(part.partition("=")[2])
    assert_done(ranks_train(ranks, tmp_path / "run", OPTIONS[name], layout))
    same_training(alone(name), tmp_path / "run")


def test_dead_units_are_revived_in_these_runs(alone: Any) -> None:
    """AuxK has something to do, or the comparisons above would say nothing of it."""
    plain, revived = (layers_of(alone(name)) for name in ("plain", "AuxK"))
    for file in (file for file in plain if file.endswith("model.safetensors")):
        assert not torch.equal(plain[file]["bias"], revived[file]["bias"]), file


@pytest.mark.parametrize("name", ["plain", "text that ends", "bfloat16, one shard"])
def test_students_on_two_ranks_end_with_the_same_bytes(
    name: str, alone: Any, tmp_path: Path
) -> None:
    assert_done(ranks_train(2, tmp_path / "run", OPTIONS[name], "students=2"))
    same_training(alone(name), tmp_path / "run")
    same_bytes(alone(name), tmp_path / "run")
    assert rows_of(alone(name)) == rows_of(tmp_path / "run")


@pytest.mark.parametrize("layout", ["data=4", "data=2,experts=2"])
def test_four_ranks_of_which_one_is_killed_go_on_as_two_and_as_one(
    layout: str, alone: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = run_ranks(_fit_checks.dies, 4, str(out), {}, layout, 2, patience=120)
    assert said.pop(2) == "exit -9"
    assert all(LOST in words and "--resume" in words for words in said), said
    step = saved_steps(out)[0]
    assert 4 <= step <= 8
    # The next process goes on with another layout, is interrupted, and a third one ends the run.
    assert_done(run_ranks(_fit_checks.stops_again, 2, str(out), {}, "experts=2", patience=120))
    assert saved_steps(out)[0] == step + 5
    _fit_checks.train(str(out), {"text_shards": None}, resume=True)
    same_training(alone("plain"), out)
    assert json.loads((out / "run.json").read_text())["resumed"] == [step, step + 5]


@pytest.mark.parametrize("layout", ["data=2", "experts=2"])
def test_two_ranks_of_which_one_is_killed_end_with_the_same_bytes(
    layout: str, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert_done(ranks_train(2, whole, {}, layout))
    said = run_ranks(_fit_checks.dies, 2, str(out), {}, layout, 0, patience=120)
    assert said[0] == "exit -9"
    assert LOST in said[1]
    assert_done(ranks_train(2, out, {}, layout, resume=True))
    same_bytes(whole, out)
    assert rows_of(whole) == rows_of(out)


@pytest.mark.parametrize("layout", ["data=2", "experts=2"])
def test_two_ranks_killed_together_end_with_the_same_bytes(layout: str, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert_done(ranks_train(2, whole, {}, layout))
    said = run_ranks(_fit_checks.dies, 2, str(out), {}, layout, _fit_checks.ALL, patience=120)
    assert said == ["exit -9"] * 2
    assert saved_steps(out)
    assert_done(ranks_train(2, out, {}, layout, resume=True))
    same_bytes(whole, out)


def test_sigterm_to_one_rank_saves_the_run(alone: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert_done(run_ranks(_fit_checks.is_asked_to_stop, 2, str(out), {}, "data=2", patience=120))
    record = json.loads((out / "run.json").read_text())
    assert record["complete"] is False
    assert saved_steps(out)[0] in (8, 9)
    assert len(layers_of(out)) == 6  # as far as they were trained
    _fit_checks.train(str(out), {}, resume=True)
    same_training(alone("plain"), out)


def test_what_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    cases = [
        ({"students": ("mxd",)}, "students=2", "got 1 students for a layout with students=2"),
        ({"text_shards": 65}, None, "got 65 text shards for batches of 64 tokens"),
        ({}, "data=3", "got layout 'data=3' for 2 processes"),
        ({"students": ("dense_mlp",)}, "experts=2", "expected layers with experts or latents"),
    ]
    assert_done(run_ranks(_fit_checks.refuses, 2, str(tmp_path / "run"), cases))


def test_what_a_layout_cannot_train_is_refused_before_any_work(tmp_path: Path) -> None:
    cases = [
        (
            {"students": ("mxd", "dense_mlp")},
            "students=2,experts=2",
            "got a dense_mlp for a layout",
        ),
        ({"layer": {"width": 3}}, "experts=4", "got a layer of 3 units for 4 ranks"),
    ]
    assert_done(run_ranks(_fit_checks.refuses_before_text, 4, str(tmp_path / "run"), cases))


def test_ranks_that_were_started_unlike_do_not_train(tmp_path: Path) -> None:
    assert_done(run_ranks(_fit_checks.is_started_unlike, 2, str(tmp_path / "run")))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_not_all_ranks_see_is_refused(tmp_path: Path) -> None:
    assert_done(run_ranks(_fit_checks.has_another_folder, 2, str(tmp_path / "run")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["students=2", "data=2"])
def test_a_cache_is_read_by_one_rank_for_all(layout: str, tmp_path: Path) -> None:
    from tests.training.distributed._preload import MODEL, TOKENIZER

    text = TextRecipe(source="d", contexts=ContextOptions(length=16))
    wanted = HarvestRecipe(text=text, layers=(1,), tokens=512, dtype="bfloat16", harvest_contexts=8)
    harvest(MODEL, TOKENIZER, wanted, tmp_path / "cache", documents=_fit_checks.documents(43))
    given = (str(tmp_path / "cache"),)
    _fit_checks.trains_from_cache(
        World(0, 1, torch.device("cpu")), str(tmp_path / "one"), *given, None
    )
    check = _fit_checks.trains_from_cache
    assert_done(run_ranks(check, 2, str(tmp_path / "run"), *given, layout))
    same_training(tmp_path / "one", tmp_path / "run")
