"""Holes that layers, runs and caches from outside once found: each stays closed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data._caches import cached, edit_manifest
from tests.fuzz.guards import in_time
from tests.layers._examples import described, filled

import mxd.layers
from mxd.data import read_manifest
from mxd.errors import UserError
from mxd.layers import Layer
from mxd.training import Recipe, TextRecipe, open_run
from mxd.training.checkpoints import CheckpointWriter, Part
from mxd.training.checkpoints.folder import read_checkpoint
from mxd.training.run_folder import write_run

SITE, STUDENT = "h.1.mlp", "mxd-k3-w9-s0"


@pytest.fixture
def layer() -> Layer:
    return described(filled("mxd", dtype=torch.float32))


@pytest.fixture
def folder(tmp_path: Path, layer: Layer) -> Path:
    layer.save_pretrained(tmp_path / "layer")
    return tmp_path / "layer"


@pytest.fixture
def run(tmp_path: Path, layer: Layer) -> Path:
    folder = tmp_path / "run"
    layer.save_pretrained(folder / "layers" / SITE / STUDENT)
    recipe = Recipe(text=TextRecipe(source="docs.jsonl"), layers=(1,)).to_dict()
    students = [{"site": SITE, "name": STUDENT}]
    write_run(folder, {"recipe": recipe, "students": students, "base_model": {"name": "a"}})
    return folder


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def refused(load: Callable[[Path], Any], folder: Path, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_layer_with_something_else_in_a_files_place(folder: Path, name: str, kind: str) -> None:
    (folder / name).rename(folder.parent / name)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(folder.parent / name)
    refused(mxd.layers.load, folder, "plain file|link out of its folder")


def test_units_beyond_the_file_cost_no_work_for_each(folder: Path) -> None:
    edit = {"unit_norm": True, "n_experts": (1 << 31) - 1}  # each table row would be normalised
    change(folder / "config.json", lambda config: config.update(edit))
    with in_time(60):  # it took minutes
        refused(mxd.layers.load, folder, r"has shape .*, expected \(2147483647, [45]\)")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"excluded_token_ids": [10**30]}, "expected a list of token ids"),  # no tensor holds it
        ({"seed": True}, "has seed True, expected int"),
        ({"k": "x" * 3_000_000}, "expected int"),
    ],
    ids=["token id", "seed", "endless"],
)
def test_layer_with_values_that_nothing_can_hold(
    folder: Path, changes: dict[str, Any], said: str
) -> None:
    change(folder / "config.json", lambda config: config.update(changes))
    with pytest.raises(UserError, match=said) as caught:
        mxd.layers.load(folder)
    assert len(str(caught.value)) < 5000


def test_layer_with_a_key_twice(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"k": 1,', 1))
    refused(mxd.layers.load, folder, "got the key 'k' twice")


def test_figures_that_are_no_numbers_do_not_keep_a_layer_from_loading(
    tmp_path: Path, layer: Layer
) -> None:
    layer.provenance.training["loss"] = float("nan")
    layer.save_pretrained(tmp_path)
    assert mxd.layers.load(tmp_path).provenance.training["loss"] != 0


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "."])
def test_names_that_no_folder_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        mxd.layers.load(tmp_path / name)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda r: r["students"].append(r["students"][0]), "lists 'mxd-k3-w9-s0' twice"),
        (lambda r: r["students"][0].update(name="x" * 5000), "outside|lacks"),
        (lambda r: r["students"][0].update(name=f"../{SITE}/{STUDENT}"), "outside its folder"),
        (lambda r: r["students"][0].update(name="."), "outside its folder"),
        (lambda r: r["students"][0].update(site=""), "outside its folder"),
        (lambda r: r["base_model"].update(revision=3), "base model with name and revision"),
        (lambda r: r["base_model"].update(name=["a"]), "base model with name and revision"),
        (lambda r: r.update(base_model="a"), "base model with name and revision"),
        (lambda r: r["recipe"]["optimizer"].update(betas=[0.9, 0.9, 0.9]), "expected 2 values"),
        (lambda r: r["recipe"]["optimizer"].update(betas=[]), "expected 2 values"),
    ],
    ids=["twice", "long", "roundabout", "dot", "empty", "revision", "name", "base", "more", "none"],
)
def test_run_whose_record_is_wrong(run: Path, edit: Callable[[Any], Any], said: str) -> None:
    open_run(run)
    change(run / "run.json", edit)
    refused(open_run, run, said)


@pytest.mark.parametrize("name", ["layers", "eval", "run.json"])
def test_run_with_a_link_out_of_it(run: Path, name: str) -> None:
    (run / "eval").mkdir()
    (run / name).rename(run.parent / "elsewhere")
    (run / name).symlink_to(run.parent / "elsewhere")
    refused(open_run, run, "is a link out of its folder|leads out of .* by a link")


@pytest.mark.parametrize("name", [f"layers/{SITE}", f"layers/{SITE}/{STUDENT}"])
def test_run_whose_layers_lie_elsewhere(run: Path, name: str) -> None:
    (run / name).rename(run.parent / "elsewhere")
    (run / name).symlink_to(run.parent / "elsewhere")
    refused(open_run, run, "leads out of .* by a link")


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/step-00000004"])
def test_checkpoint_that_lies_elsewhere(run: Path, name: str) -> None:
    folder = run / "checkpoints" / "step-00000004"
    writer = CheckpointWriter(run, keep=1)
    writer.save(4, Part({}, {"stream-0.safetensors": {"a": torch.ones(3)}}))
    writer.wait()
    assert read_checkpoint(folder).step == 4
    (run / name).rename(run.parent / "elsewhere")
    (run / name).symlink_to(run.parent / "elsewhere")
    refused(read_checkpoint, folder, "leads out of .* by a link")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_layer_whose_means_are_no_file(folder: Path, make: Callable[[Path], None]) -> None:
    (folder / "statistics.safetensors").unlink(missing_ok=True)
    mxd.layers.load(folder)  # it may have none
    make(folder / "statistics.safetensors")
    refused(mxd.layers.load, folder, "expected a plain file")


def test_manifest_that_is_a_pipe(tmp_path: Path) -> None:
    cached(tmp_path / "cache")
    (tmp_path / "cache" / "manifest.json").unlink()
    os.mkfifo(tmp_path / "cache" / "manifest.json")
    refused(read_manifest, tmp_path / "cache", "expected a plain file")


def test_manifest_with_an_endless_number(tmp_path: Path) -> None:
    cached(tmp_path / "cache")
    edit_manifest(tmp_path / "cache", lambda raw: raw.update(tokens_wanted=10**50))
    refused(read_manifest, tmp_path / "cache", "a number of 51 digits")
