"""A training on a model that lies in parts on two ranks is the training on the whole model."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.tiny_models import tiny_model
from tests.training.distributed import _model_checks, test_fit
from tests.training.distributed.ranks import assert_done, run_ranks

pytest.importorskip("accelerate")
WEIGHTS = 1e-4
"""Absolute difference of weights: here the passes of the model round otherwise too."""
ENDS: dict[str, Any] = {"on_exhausted": "stop", "tokens": 9_999, "log_every": 1}


def same_training(one: Path, other: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_fit, "WEIGHTS", WEIGHTS)
        test_fit.same_training(one, other)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny models, by architecture."""
    root = tmp_path_factory.mktemp("models")
    for arch in ("llama", "gpt2"):
        tiny_model(arch).save_pretrained(root / arch)
    return {arch: str(root / arch) for arch in ("llama", "gpt2")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str]) -> Any:
    """Runs of one process on the whole model; `ends` or not."""
    made: dict[bool, Path] = {}

    def run(ends: bool) -> Path:
        if ends not in made:
            made[ends] = tmp_path_factory.mktemp("alone") / "run"
            changes = ENDS if ends else {}
            _model_checks.train(models["llama"], str(made[ends]), changes, False, None)
        return made[ends]

    return run


@pytest.mark.parametrize(
    ("layout", "ends"), [(None, False), ("experts=2", False), ("students=2", True)]
)
def test_it_is_the_same_training(
    models: dict[str, str], alone: Any, tmp_path: Path, layout: str | None, ends: bool
) -> None:
    out, changes = tmp_path / "run", ENDS if ends else {}
    assert_done(run_ranks(_model_checks.trains, 2, models["llama"], str(out), changes, layout))
    same_training(alone(ends), out)
    assert json.loads((out / "run.json").read_text())["placement"] == {"tensor_parallel": 2}


def test_it_goes_on_with_the_whole_model(
    models: dict[str, str], alone: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert_done(run_ranks(_model_checks.stops, 2, models["llama"], str(out)))
    _model_checks.train(models["llama"], str(out), {}, False, None, resume=True)
    (step,) = json.loads((out / "run.json").read_text())["resumed"]
    assert 8 <= step < 16  # a signal is heard at the end of a step
    same_training(alone(False), out)


def test_sites_and_activations_are_those_of_the_whole_model(models: dict[str, str]) -> None:
    assert_done(run_ranks(_model_checks.sees_the_same, 2, models["llama"]))


def test_what_it_cannot_do_is_refused(models: dict[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert_done(run_ranks(_model_checks.refuses, 2, models["llama"], models["gpt2"], out))
