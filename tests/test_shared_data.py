import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mxd.cli.main import run

pytestmark = pytest.mark.shared
SHARED = Path(os.environ.get("MXD_SHARED", Path(__file__).parents[2] / "shared"))


def _shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no shared data at {path}; set MXD_SHARED to the folder that holds it")
    return path


def _fit_and_eval(
    model: Path, folder: Path, text: Path, flags: list[str], tokens: int
) -> dict[str, Any]:
    out, figures = folder / "run", folder / "figures.json"
    few = ["--buffer-contexts", "128", "--log-every", "4", "--precision", "float32"]
    fit = ["fit", str(model), "--text", str(text), "--out", str(out), *few, *flags]
    assert run(fit) == 0
    assert run(["eval", str(out), "--tokens", str(tokens), "--json", str(figures)]) == 0
    assert (out / "report.html").is_file()
    document: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    return document


def test_stories_model_is_taken_apart(tmp_path):
    model = _shared("data", "stories260k")
    flags = ["--layers", "2", "--arch", "mxd,transcoder", "--k", "3", "--expansion", "8"]
    flags += ["--tokens", "16384", "--batch-tokens", "1024"]
    text = _shared("data", "stories260k", "sample_corpus.jsonl.gz")
    document = _fit_and_eval(model, tmp_path, text, flags, 8192)
    assert 0 < document["base_cross_entropy"] < document["zero_ablation_cross_entropy"] < 6
    parameters = [layer["parameters"] for layer in document["layers"]]
    assert max(parameters) - min(parameters) < 0.02 * max(parameters)
    for layer in document["layers"]:
        assert 0 < layer["l0"] <= 3
        assert 0 < layer["nmse"] < 1
        assert 0 < layer["loss_recovered"] < 1
        assert layer["delta_cross_entropy"] > 0


def test_copied_model_is_taken_apart_on_other_text(tmp_path):
    model = shutil.copytree(
        _shared("models", "small-gpt2"), tmp_path / "copy", copy_function=shutil.copyfile
    )
    text = _shared("data", "corpus", "validation.jsonl.gz")
    other = _shared("data", "corpus", "test.jsonl.gz")
    flags = ["--layers", "1", "--arch", "mxd", "--k", "4", "--expansion", "8"]
    flags += ["--tokens", "8192", "--batch-tokens", "1024", "--eval-text", str(other)]
    document = _fit_and_eval(model, tmp_path, text, flags, 4096)
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["base_model"]["name"] == str(model)
    assert record["recipe"]["text"]["eval_source"] == str(other)
    (layer,) = document["layers"]
    assert 0 < layer["nmse"] < 1
    assert document["documents"] > 1
