"""Errors and Ctrl-C in the middle of a run, and trackers."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.helpers.tiny_models import tiny_model
from tests.training._parts import SITE, rows_of, tiny_recipe

from mxd.errors import UserError
from mxd.training import Progress, fit, open_run


def interrupt(progress: Progress) -> None:
    if progress.tokens >= 512:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("value", "batch"), [(float("nan"), 2), (float("inf"), 5)])
def test_activations_that_become_infinite_stop_the_run(
    tokenizer, documents, tmp_path: Path, value: float, batch: int
) -> None:
    """In the first buffer they leave nothing; later, what was learnt before."""
    model, calls = tiny_model("gpt2"), []

    def spoil(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.extend([1] * (output.shape[:2] == (8, 16)))  # a batch, and not the look for sites
        return output * value if len(calls) >= batch else output

    hook = model.get_submodule(SITE).register_forward_hook(spoil)
    with pytest.raises(UserError, match=rf"site {SITE} in batch {batch}"):
        fit(model, tokenizer, tiny_recipe(), documents=documents, out=tmp_path / "a" / "run")
    hook.remove()
    if batch == 2:
        assert list(tmp_path.iterdir()) == []
        return
    found = open_run(tmp_path / "a" / "run")
    assert found.record["complete"] is False
    assert found.record["data"]["tokens_trained"] > 0


def test_ctrl_c_keeps_the_layers_and_says_that_the_run_is_not_complete(
    model, tokenizer, documents, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(
            model, tokenizer, tiny_recipe("mxd", "transcoder"), documents=documents, out=out,
            on_progress=interrupt,
        )  # fmt: skip
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["complete"] is False
    found = open_run(out)
    assert list(found.layers[SITE]) == ["mxd-k3-w24-s42", "transcoder-k3-w24-s42"]
    assert found.record["data"]["tokens_trained"] == 512
    for layer in found.layers[SITE].values():
        assert layer.provenance.training["steps"] == 8
        assert "mean_output" in layer.statistics
    assert rows_of(out)[-1]["step"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_ctrl_c_in_the_first_steps_leaves_a_run_that_opens(
    model, tokenizer, documents, tmp_path: Path
) -> None:
    def at_once(_progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            model, tokenizer, tiny_recipe(log_every=1), documents=documents,
            out=tmp_path / "run", on_progress=at_once,
        )  # fmt: skip
    assert open_run(tmp_path / "run").record["complete"] is False


def test_too_little_text_is_refused_and_leaves_nothing(
    model, tokenizer, documents, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="tokens of text"):
        fit(model, tokenizer, tiny_recipe(), documents=documents[:1], out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_tracker_that_is_not_installed_is_named(
    model, tokenizer, documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb is not installed; pip install .*trackers"):
        fit(
            model, tokenizer, tiny_recipe(trackers=("wandb",)), documents=documents,
            out=tmp_path / "run",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_tracker_gets_configuration_figures_and_its_end(
    model, tokenizer, documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    logged: list[dict[str, float]] = []
    steps: list[int] = []
    ended: list[bool] = []

    def init(**options: Any) -> SimpleNamespace:
        started.append(options)

        def log(figures: dict[str, float], step: int) -> None:
            logged.append(figures)
            steps.append(step)

        return SimpleNamespace(log=log, finish=lambda: ended.append(True))

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    recipe = tiny_recipe("mxd", "transcoder", trackers=("trackio",))
    fit(model, tokenizer, recipe, documents=documents)
    assert [options["config"] for options in started] == [recipe.to_dict()]
    assert steps == [4, 4, 8, 8, 12, 12]
    assert f"{SITE}/mxd-k3-w24-s42/nmse" in logged[0]
    assert ended == [True]
