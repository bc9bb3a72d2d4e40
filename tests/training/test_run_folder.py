"""A run's folder: what is in it, what happens to it on errors, and what is read from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny_models import tiny_model
from tests.training._parts import SITE, rows_of, same_weights, tiny_recipe

from mxd.errors import UserError
from mxd.layers import load
from mxd.training import Run, Student, fit, open_run, store_evaluation, student_folder

STUDENT = "mxd-k3-w24-s42"


@pytest.fixture(scope="module")
def stored(model, tokenizer, documents, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit(
        model, tokenizer, tiny_recipe("mxd", "transcoder"), documents=documents, out=out,
        base_model="some/base", command=["mxd", "fit"],
    )  # fmt: skip


@pytest.fixture
def copied(stored: Run, tmp_path: Path) -> Path:
    assert stored.folder is not None
    for source in sorted(stored.folder.rglob("*")):
        target = tmp_path / "run" / source.relative_to(stored.folder)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return tmp_path / "run"


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_run_folder_has_the_promised_files(stored: Run) -> None:
    assert stored.folder is not None
    files = {name for name in tree(stored.folder) if not name.startswith("tensorboard/")}
    layer_files = ("config.json", "model.safetensors", "statistics.safetensors", "README.md")
    assert files == {"run.json", "metrics.jsonl"} | {
        f"layers/{SITE}/{student}/{name}"
        for student in (STUDENT, "transcoder-k3-w24-s42")
        for name in layer_files
    }
    (events,) = (stored.folder / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.")
    assert events.stat().st_size > 200


def test_run_json_records_configuration_command_versions_seeds_and_data(stored: Run) -> None:
    assert stored.folder is not None
    record = json.loads((stored.folder / "run.json").read_text(encoding="utf-8"))
    assert (record["format"], record["format_version"], record["complete"]) == ("mxd-run", 1, True)
    assert record["command"] == ["mxd", "fit"]
    assert record["recipe"] == json.loads(json.dumps(stored.recipe.to_dict()))
    assert record["seeds"] == {"run": 42, "students": [42]}
    assert {"mxd", "python", "torch", "transformers"} <= set(record["versions"])
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0] or (
        record["versions"]["torch"] == torch.__version__
    )
    assert set(record["base_model"]) == {"name", "revision", "sites"}
    assert record["base_model"]["name"] == "some/base"
    assert len(record["data"]["fingerprint"]) == 64
    assert [(s["site"], s["name"]) for s in record["students"]] == [
        (SITE, STUDENT), (SITE, "transcoder-k3-w24-s42"),
    ]  # fmt: skip


def test_metrics_have_a_row_for_each_student_and_report(stored: Run) -> None:
    assert stored.folder is not None
    rows = rows_of(stored.folder, timed=True)
    assert [(row["step"], row["tokens"]) for row in rows[::2]] == [(4, 256), (8, 512), (12, 768)]
    assert {row["student"] for row in rows} == {STUDENT, "transcoder-k3-w24-s42"}
    assert set(rows[0]) == {
        "step", "tokens", "site", "student", "loss", "nmse", "l0", "dead_fraction", "lr",
        "smallest_singular_value", "seconds", "tokens_per_second", "harvest_seconds",
        "student_seconds",
    }  # fmt: skip


def test_open_run_gives_back_what_fit_returned(stored: Run) -> None:
    assert stored.folder is not None
    found = open_run(stored.folder)
    assert found.recipe == stored.recipe
    assert found.base_model == "some/base"
    assert {s: list(layers) for s, layers in found.layers.items()} == {
        s: list(layers) for s, layers in stored.layers.items()
    }
    for name, layer in stored.layers[SITE].items():
        again = found.layers[SITE][name]
        assert same_weights(layer, again)
        assert again.provenance == layer.provenance
        assert again.statistics.keys() == layer.statistics.keys()


def test_store_evaluation_writes_figures_into_folder_and_cards(copied: Path) -> None:
    run = open_run(copied)
    figures = {"site": SITE, "name": STUDENT, "nmse": 0.125, "delta_cross_entropy": 0.03}
    document = {"tokens": 99, "layers": [figures]}
    document["text"] = "other text"
    store_evaluation(run, document, name="held-out")
    assert json.loads((copied / "eval" / "held-out.json").read_text(encoding="utf-8")) == document
    layer = load(student_folder(copied, SITE, STUDENT))
    assert layer.provenance.evaluation == {"text": "other text", "tokens": 99, **figures}
    card = (student_folder(copied, SITE, STUDENT) / "README.md").read_text(encoding="utf-8")
    assert "other text" in card


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda record: record.pop(key)


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record.__setitem__(key, value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (put("format", "other"), "not the record of a run"),
        (put("format_version", 2), "format version 2, expected 1"),
        (drop("recipe"), "does not hold a Recipe"),
        (put("recipe", []), "does not hold a Recipe"),
        (put("recipe", {}), "does not hold a Recipe"),
        (drop("students"), "has no layers"),
        (put("students", []), "has no layers"),
        (put("students", 3), "has no layers"),
        (put("students", "ab"), "has no layers"),
        (put("students", [3]), "damaged"),
        (put("students", [{"site": SITE}]), "damaged"),
        (put("students", [{"site": SITE, "name": 3}]), "damaged"),
        (put("students", [{"site": SITE, "name": "mxd-k9-w9-s9"}]), r"mxd-k9-w9-s9"),
        (put("students", [{"site": SITE, "name": "../../.."}]), "outside its folder"),
        (put("students", [{"site": "../..", "name": "layers"}]), "outside its folder"),
        (put("students", [{"site": "/", "name": "tmp"}]), "outside its folder"),
        (put("students", [{"site": SITE, "name": "a\0b"}]), "outside its folder"),
    ],
)
def test_damaged_record_is_refused(
    copied: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    record = json.loads((copied / "run.json").read_text(encoding="utf-8"))
    damage(record)
    (copied / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        open_run(copied)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_record_that_is_no_json_object_is_refused(copied: Path, content: bytes) -> None:
    (copied / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json"):
        open_run(copied)


def test_folder_without_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run"):
        open_run(tmp_path)


def test_layer_link_out_of_the_run_is_refused(copied: Path, tmp_path: Path) -> None:
    folder = student_folder(copied, SITE, STUDENT)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="link"):
        open_run(copied)


def test_fit_refuses_a_folder_that_is_there_before_any_work(model, tokenizer, copied: Path) -> None:
    before = tree(copied)
    with pytest.raises(UserError, match="exists; choose another"):
        fit(model, tokenizer, tiny_recipe(), documents=iter(()), out=copied)
    assert tree(copied) == before


def test_fit_never_overwrites_what_is_no_run(model, tokenizer, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work", encoding="utf-8")
    for out in (tmp_path / "notes", tmp_path / "notes" / "thesis.tex"):
        with pytest.raises(UserError, match=r"is not the folder of a run|is a file"):
            fit(model, tokenizer, tiny_recipe(), documents=iter(()), out=out, overwrite=True)
    assert (tmp_path / "notes" / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_overwrite_replaces_an_earlier_run(model, tokenizer, documents, copied: Path) -> None:
    fit(model, tokenizer, tiny_recipe("dense_mlp"), documents=documents, out=copied, overwrite=True)
    assert list(open_run(copied).layers[SITE]) == ["dense_mlp-k0-w0-s42"]
    assert [path.name for path in copied.parent.iterdir()] == ["run"]


def test_failing_overwrite_puts_the_old_run_back(
    tokenizer, documents, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first step; later, what was learnt is worth more."""
    before = tree(copied)
    monkeypatch.setattr(Student, "step", raising(RuntimeError("planted")))
    with pytest.raises(RuntimeError, match="planted"):
        fit(
            tiny_model("gpt2"), tokenizer, tiny_recipe(), documents=documents, out=copied,
            overwrite=True,
        )  # fmt: skip
    assert tree(copied) == before
    assert [path.name for path in copied.parent.iterdir()] == ["run"]


def raising(error: BaseException) -> Callable[..., None]:
    def stop(*_: object) -> None:
        raise error

    return stop
