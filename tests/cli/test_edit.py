"""`mxd edit`: edited layers that load like any other, and the study of how selective edits are."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.cli._parts import Cli, read_json, write_text

import mxd
from mxd.cli._editing import _documents
from mxd.cli._run import open_with_model
from mxd.evaluation.editing import study as study_module
from mxd.layers import SparseLayer, edited
from mxd.training import training_documents

SITE = "transformer.h.1.mlp"
EFFECT = {
    "target_rise", "target_rise_se", "keep_rise", "keep_rise_se", "selectivity",
    "selectivity_se", "ratio", "target_rise_over_base", "keep_rise_over_base",
}  # fmt: skip


@pytest.fixture
def run(trained: Path, cli: Cli) -> Path:
    return Path(shutil.copytree(trained, cli.folder / "run"))


def layer_of(run: Path, architecture: str) -> SparseLayer:
    (layer,) = (
        layer
        for layer in mxd.open_run(run).layers[SITE].values()
        if layer.config.architecture == architecture
    )
    assert isinstance(layer, SparseLayer)
    return layer


def test_edited_layer_is_saved_and_loads_like_any_other(cli: Cli, run: Path) -> None:
    result = cli.succeeds(
        "edit", run, "--expert", "2,3", "--scale", 0.5, "--where", 7, "--edit", "4 remove",
        "--edit", "5 replace-by 6", "--out", "edited", "--json", "edit.json",
    )  # fmt: skip
    assert "2 scale 0.5 where 7" in result.out
    changes = [mxd.Edit(n, scale=0.5, where=7) for n in (2, 3)]
    changes += [mxd.Edit(4, remove=True), mxd.Edit(5, replace_by=6)]
    original = layer_of(run, "mxd")
    loaded = mxd.load("edited")
    x = torch.randn(20, 32)
    assert torch.equal(loaded(x), edited(original, changes)(x))
    assert loaded.provenance.edit_history == tuple(map(str, changes))
    assert "## Edited" in Path("edited/README.md").read_text(encoding="utf-8")
    document = read_json(Path("edit.json"))
    assert document["edits"] == [str(edit) for edit in changes]
    assert set(document["frequencies"]) == {"2", "3", "4", "5", "7"}  # and the condition's
    assert (document["kind"], document["architecture"]) == ("edit", "mxd")


def test_layer_of_another_architecture_over_an_earlier_one(cli: Cli, run: Path) -> None:
    edit = ["edit", run, "--expert", 1, "--out", "deep/edited", "--no-check"]
    cli.succeeds(*edit, "--remove")
    cli.refuses([*edit, "--remove"], "deep/edited exists; choose another, or pass --overwrite")
    cli.succeeds(*edit, "--scale", 0, "--student", "transcoder", "--overwrite")
    assert mxd.load("deep/edited").config.architecture == "transcoder"


def test_expert_that_never_fires_is_warned_of(cli: Cli, run: Path) -> None:
    layer = layer_of(run, "mxd")
    with torch.no_grad():
        layer.gate_linear.bias[3] = -1e6
    (folder,) = (run / "layers" / SITE).glob("mxd-*")
    layer.save_pretrained(folder)
    result = cli.succeeds("edit", run, "--expert", 3, "--scale", 0, "--out", "edited")
    assert "3 scale 0  (warning: it never fired on held-out text" in " ".join(
        result.out.split("\n")
    )
    others = ",".join(str(n) for n in range(24) if n != 3)
    edit = ("edit", run, "--expert", others, "--scale", 0, "--where", 3, "--out", "conditional")
    assert "where 3  (warning: 3 never fired" in cli.succeeds(*edit).out


def test_model_that_is_gone_does_not_stop_an_edit(cli: Cli, run: Path) -> None:
    record = run / "run.json"
    content = read_json(record)
    name = content["base_model"]["name"]
    record.write_text(record.read_text(encoding="utf-8").replace(name, "/gone"), encoding="utf-8")
    result = cli("edit", run, "--expert", 3, "--scale", 0, "--out", "edited")
    assert result.code == 0
    assert mxd.load("edited").provenance.edit_history == ("3 scale 0",)


def test_refused_edits(cli: Cli, run: Path) -> None:
    out = ("--out", "edited", "--no-check")
    for flags, message in (
        (
            ["--expert", 24, "--scale", 0],
            "unit=24 in the edit '24 scale 0', expected a unit from 0",
        ),
        (["--expert", 1, "--scale", 0, "--where", 99], "where=99"),
        (["--expert", -1, "--scale", 0], "unit=-1"),
        (["--expert", 1], "0 of --scale, --remove and --replace-by"),
        (["--expert", 1, "--scale", 0, "--remove"], "2 of --scale, --remove and --replace-by"),
        (["--expert", 1, "--scale", "nan"], "scale=nan"),
        (["--expert", 1, "--scale", 0, "--where", 2, "--unless", 3], "at most one condition"),
        (["--scale", 0], "--scale without --expert"),
        ([], "nothing to edit"),
        (["--edit", "1 grow 3"], "'1 grow 3'"),
        (["--expert", 1, "--remove", "--target", "a.txt"], "--target"),
        (["--expert", 1, "--remove", "--student", "nobody"], "'nobody'"),
    ):
        cli.refuses(["edit", run, *flags, *out], message)
    cli.refuses(["edit", run, "--expert", 1, "--remove"], "got no --out")
    inside = run / "layers" / SITE / "mine"
    cli.refuses(["edit", run, "--expert", 1, "--remove", "--out", inside], "keeps the layers")
    cli.refuses(
        ["edit", run, "--expert", 1, "--remove", "--out", run, "--overwrite"],
        "is not the folder of a layer",
    )
    cli.refuses(["edit", "nowhere", "--expert", 1, "--remove", *out], "is no run")


def study(run: Path, **flags: object) -> list[object]:
    chosen = {
        "target": "code.txt", "keep": "prose.jsonl.gz", "tokens": 800, "sizes": "1,3",
        "random-draws": 1, "batch-contexts": 8, **flags,
    }  # fmt: skip
    words = [word for name, value in chosen.items() for word in (f"--{name}", value)]
    return ["edit", run, "--study", *words]


def test_study_end_to_end(cli: Cli, run: Path) -> None:
    Path("code.txt").write_text(" ".join(f"w{3 + i * i % 17}" for i in range(900)))
    write_text(Path("prose.jsonl.gz"), documents=60, seed=5)
    result = cli.succeeds(*study(run), "--json", "study.json")
    assert "random matched" in result.out
    assert "whole layer at mean" in result.out
    stored = run / "eval" / "editing-code.txt-prose.jsonl.gz.json"
    first = stored.read_bytes()
    assert Path("study.json").read_bytes() == first
    document = read_json(stored)
    assert document["kind"] == "editing"
    assert (document["target"]["split"], document["keep"]["split"]) == ("pieces", "documents")
    assert document["keep"]["measuring_tokens"] == 400
    assert {layer["architecture"] for layer in document["layers"]} == {"mxd", "transcoder"}
    for layer in document["layers"]:
        assert set(layer["ablation"]["zero"]) == set(layer["ablation"]["mean"]) == EFFECT
        assert {(e["ranking"], e["m"], e["draw"]) for e in layer["edits"]} == {
            *((ranking, m, None) for ranking in ("attribution", "probing") for m in (1, 3)),
            *((ranking, m, 0) for ranking in ("random", "random_matched") for m in (1, 3)),
        }
        keys = EFFECT | {"ranking", "m", "draw", "units", "frequency"}
        assert all(set(edit) == keys for edit in layer["edits"])
        assert all(len(edit["units"]) == edit["m"] for edit in layer["edits"])
    cli.succeeds(*study(run), "--json", "study.json")
    assert stored.read_bytes() == first


def test_study_on_the_run_s_own_text_takes_the_part_held_out(
    cli: Cli, run: Path, text: Path
) -> None:
    write_text(Path("other.jsonl.gz"), documents=40, seed=5)
    flags = {"target": text, "keep": "other.jsonl.gz", "student": "mxd", "rank": "probing"}
    cli.succeeds(*study(run, **flags))
    (stored,) = (run / "eval").glob("editing-*.json")
    document = read_json(stored)
    assert document["target"]["text"] == f"held-out part of {text}"
    # A glob that finds the same file is the same text.
    cli.succeeds(*study(run, **{**flags, "target": f"{text.parent}/docs.*"}))
    texts = {read_json(p)["target"]["text"] for p in (run / "eval").glob("editing-*.json")}
    assert all(each.startswith("held-out part of") for each in texts)


def test_held_out_part_is_by_the_text_s_own_seed(run: Path, text: Path) -> None:
    """A run from a cache has the split of the harvest, whatever its own seed is."""
    opened = open_with_model(run, model=None, device="cpu")
    recipe = opened.run.recipe
    recipe = replace(recipe, text=replace(recipe.text, split_seed=recipe.seed + 1))
    opened = replace(opened, run=replace(opened.run, recipe=recipe))
    trained_on = {document.text for document in training_documents(recipe.text, recipe.seed)}
    for source in (str(text), f"{text.parent}/docs.*"):
        documents, said = _documents(opened, source)
        found = {document.text for document in documents}
        assert said == f"held-out part of {source}"
        assert found
        assert not found & trained_on


def test_hostile_names_of_texts_are_shown_harmless(cli: Cli, run: Path) -> None:
    write_text(Path("a\x1b[2J.jsonl.gz"), documents=30, seed=4)
    write_text(Path("prose.jsonl.gz"), documents=30, seed=5)
    flags = {"target": "a\x1b[2J.jsonl.gz", "sizes": 1, "student": "mxd", "rank": "probing"}
    result = cli.succeeds(*study(run, **flags))
    assert "\x1b" not in result.out
    assert "[2J" in result.out


def test_interrupted_study_keeps_the_layers_that_are_done(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(Path("code.jsonl.gz"), documents=30, seed=4)
    write_text(Path("prose.jsonl.gz"), documents=30, seed=5)
    choose = study_module.choose

    def interrupted(name: str, *rest: object) -> object:
        if name.startswith("transcoder"):
            raise KeyboardInterrupt
        return choose(name, *rest)

    monkeypatch.setattr(study_module, "choose", interrupted)
    result = cli(*study(run, target="code.jsonl.gz"))
    assert result.code == 130
    assert "interrupted; the figures of the layers that are done are in" in result.err
    document = read_json(run / "eval" / "editing-code.jsonl.gz-prose.jsonl.gz.json")
    assert [layer["architecture"] for layer in document["layers"]] == ["mxd"]


@pytest.mark.parametrize("flag", ["tokens", "rank", "sizes", "random-draws", "seed"])
def test_flags_of_a_study_are_refused_without_it(cli: Cli, run: Path, flag: str) -> None:
    value = "attribution" if flag == "rank" else 1
    cli.refuses(
        ["edit", run, "--expert", 2, "--scale", 0, "--out", "edited", f"--{flag}", value],
        f"got --{flag}, expected together with it",
    )


def test_refused_studies(cli: Cli, run: Path) -> None:
    write_text(Path("prose.jsonl.gz"), documents=30, seed=5)
    write_text(Path("other.jsonl.gz"), documents=30, seed=6)
    Path("code.txt").write_text("w3 w4 w5")
    cli.refuses(["edit", run, "--study", "--target", "code.txt"], "--study without --keep")
    cli.refuses([*study(run), "--no-check"], "--no-check")
    cli.refuses(study(run), "code.txt cannot be split in two halves")
    cli.refuses(study(run, target="absent.txt"), "absent.txt")
    for flags, message in (
        ({"scale": 1}, "got scale=1.0"),
        ({"rank": "taste"}, "taste"),
        ({"sizes": 0}, "sizes [0]"),
        ({"expert": 1}, "--expert"),
        ({"out": "x"}, "--out"),
        ({"where": 0}, "--where"),
        ({"keep": "./other.jsonl.gz"}, "as --target and as --keep"),
    ):
        cli.refuses(study(run, target="other.jsonl.gz", **flags), message)
