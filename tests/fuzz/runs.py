"""Layers and runs as training and evaluation leave them, and what verbs do with them."""

import gzip
import json
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from tests.cli._parts import save_tokenizer, small, write_text
from tests.fuzz.campaign import Target
from tests.fuzz.spoiling import linked, spoiled
from tests.helpers.tiny_models import tiny_model
from tests.layers._examples import KINDS, described, filled, inputs
from tests.report.synthetic import Synthetic

import mxd.layers
from mxd.cli.doctor import stored_evaluation
from mxd.cli.main import run as run_command
from mxd.data import open_documents, split_documents
from mxd.evaluation import diagnose
from mxd.layers import Edit, Layer, SparseLayer
from mxd.report import report_runs
from mxd.training import Run, open_run

_PNG = b"\x89PNG\r\n\x1a\n"


def layer_targets(root: Path, mark: Path) -> list[Target]:
    """Folders of layers: every architecture, and one with edits that depend on the token."""
    targets = []
    for kind in (*KINDS, "edited"):
        layer = described(filled("mxd" if kind == "edited" else kind, dtype=torch.float32))
        if kind == "edited":
            layer.config.edits = (Edit(1, scale=0.5, where=2), Edit(3, replace_by=4, unless=0))
            layer.provenance.edit_history = ("1 scale 0.5 where 2",)
        folder = root / kind
        layer.save_pretrained(folder)
        files = ("config.json", "model.safetensors", "statistics.safetensors")
        mutations = spoiled(folder, files, mark)
        targets.append(Target(f"layer {kind}", folder, mutations, mxd.layers.load, use_layer))
    return targets


def use_layer(layer: Layer, out: Path) -> None:
    """Compute with a layer, count what it costs, and save it again."""
    with torch.no_grad():
        x = inputs(layer, 2)
        assert layer(x).shape == (2, layer.config.d_out)
        if isinstance(layer, SparseLayer):
            layer.encode(x).dense()
    layer.cost()
    layer.save_pretrained(out / "again")


def run_targets(root: Path, mark: Path) -> list[Target]:
    """A run that was trained and measured, as the verbs open it and as the doctor reads it."""
    model, text, folder = root / "model", root / "docs.jsonl", root / "run"
    tiny_model("gpt2").save_pretrained(model)
    save_tokenizer(model)
    packed = write_text(root / "docs.jsonl.gz", documents=60)
    text.write_bytes(gzip.decompress(packed.read_bytes()))
    assert (
        run_command(["fit", str(model), *small(text=text, arch="mxd,transcoder", out=folder)]) == 0
    )
    assert run_command(["eval", str(folder), "--tokens", "200"]) == 0
    for path in folder.glob("*tfevents*"):
        path.unlink()
    layer = next((folder / "layers").glob("*/mxd*")).relative_to(folder)
    files = ("run.json", str(layer / "config.json"), str(layer / "model.safetensors"))
    figures = (str(path.relative_to(folder)) for path in sorted((folder / "eval").glob("*.json")))
    folders = ("layers", "eval", str(layer), str(layer.parent))
    mutations = spoiled(folder, files, mark) | linked(folder, folders)
    return [
        Target("run", folder, mutations, open_run, use_run, weight=3),
        Target("doctor", folder, spoiled(folder, tuple(figures), mark), open_run, use_figures),
    ]


def use_run(run: Run, out: Path) -> None:
    """What verbs take from a run: its base model's name, its recipe, a bit of its text."""
    assert run.base_model is None or isinstance(run.base_model, str)
    run.record.get("base_model", {})
    json.dumps(run.recipe.to_dict())
    for of in run.layers.values():
        for layer in of.values():
            use_layer(layer, out)
    source = open_documents(run.recipe.text.source, run.recipe.text.options)
    kept, held_out = split_documents(source, holdout=run.recipe.text.holdout, seed=run.recipe.seed)
    list(islice(chain(kept, held_out), 3))


def use_figures(run: Run, out: Path) -> None:
    """What the doctor says of stored figures."""
    document = stored_evaluation(run)
    if document is not None:
        training = {
            (site, name): layer.provenance.training
            for site, of in run.layers.items()
            for name, layer in of.items()
        }
        json.dumps([one.to_dict() for of in diagnose(document, training).values() for one in of])


def report_target(root: Path, mark: Path, pictures: bool) -> Target:
    """The folder of a run with results of every kind, put on a page, with pictures or without."""
    folder = Synthetic(ks=(16,), seeds=(1,)).write(root / "reported")
    config = next(folder.glob("layers/*/*/config.json")).relative_to(folder)
    eval_files = (str(path.relative_to(folder)) for path in sorted((folder / "eval").glob("*")))
    files = ("run.json", "metrics.jsonl", str(config), *eval_files)
    return Target(
        "report",
        folder,
        spoiled(folder, files, mark),
        lambda copy: copy,
        partial(use_results, pictures),
        memory=512 << 20,  # pictures
        weight=0.25,
    )


def use_results(pictures: bool, folder: Path, out: Path) -> None:
    """Put results on a page; pictures take seconds, so they may be left out."""
    with pytest.MonkeyPatch.context() as patch:
        if not pictures:
            patch.setattr(Figure, "savefig", lambda _, path, **how: path.write_bytes(_PNG))
        report_runs([folder], out)
