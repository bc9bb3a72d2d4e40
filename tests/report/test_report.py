import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.report.page import Page
from tests.report.synthetic import SITE, Synthetic

from mxd.errors import UserError
from mxd.evaluation import diagnose
from mxd.report import publish, report_runs
from mxd.training import PRESETS

HOSTILE = "=<script>alert(1)</script>\u202e\x00\"onerror='x'"
FIGURES = {
    "activity", "editing-code-prose", "frontier", "probe-ag_news", "rank", "similarity",
    "singular-values", "steering", "training", "usage",
}  # fmt: skip
TABLES = {
    "ablations", "doctor", "editing-code-prose", "faithfulness", "geometry", "layers",
    "probe-ag_news", "probe-ag_news-classes", "published", "steering", "texts", "training", "usage",
}  # fmt: skip


def _rows(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _contents(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def made() -> Synthetic:
    return Synthetic(variants=("relu",))


@pytest.fixture(scope="module")
def whole(made: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a run with everything, and with the paper's numbers."""
    root = tmp_path_factory.mktemp("whole")
    run = made.write(root / "run", preset=PRESETS["gpt2-124m"].record(scale=0.01))
    report_runs([run], root / "out", command="mxd report run")
    return root / "out"


def test_report_has_a_figure_and_a_table_for_each_kind_of_result(whole):
    names = {path.stem for path in (whole / "figures").iterdir()}
    assert names == FIGURES
    assert {path.suffix for path in (whole / "figures").iterdir()} == {".png", ".svg"}
    assert {path.stem for path in (whole / "tables").iterdir()} == TABLES
    page = Page(whole / "report.html")
    assert len(page.of("img")) == len(FIGURES)
    for section in (
        "Faithfulness", "Beside the paper", "Ablations", "On other texts", "Use of units",
        "Rank and geometry", "Sparse probing", "Steering", "Editing", "Training",
        "Units worth seeing", "How to repeat it", "Method",
    ):  # fmt: skip
        assert section in page.text
    assert "left out" not in page.text


def test_report_says_what_was_done_and_by_which_command(whole):
    text = Page(whole / "report.html").text
    for said in (
        "openai-community/gpt2", "607a30d", "9c1185a5", "2.13.0", "normalized_mse", "412 documents",
        "Trained on 1 % of the preset's tokens.", "still falling", "dead_experts",
        "mxd sweep gpt2 --preset gpt2-124m --scale 0.01", "mxd eval run", "mxd doctor run",
        "mxd probe run --task ag_news", "mxd steer run --study 50", "mxd edit run --study",
        "mxd report run", "a = TopK(ReLU(G x + g))", "gpt-judge stopped: it cannot be reached",
        "Let's talk about the news.", "Unit 1184", "K = 32",
    ):  # fmt: skip
        assert said in text, said


def test_table_over_seeds_agrees_with_scipy(whole, made):
    for row in _rows(whole, "faithfulness"):
        k = int(row["k"]) if row["k"] else None
        alike = [
            one
            for one in made.layers
            if (one["architecture"], one["k"]) == (row["architecture"], k)
            and not one["name"].endswith("relu")
        ]
        for key in ("nmse", "delta_cross_entropy", "loss_recovered"):
            values = np.array([one[key] for one in alike])
            _, high = stats.t.interval(0.95, 1, loc=values.mean(), scale=stats.sem(values))
            assert float(row[key]) == pytest.approx(values.mean())
            assert float(row[f"{key}_half_95"]) == pytest.approx(high - values.mean())
            assert row[f"{key}_interval"] == "seeds"
    assert len(_rows(whole, "faithfulness")) == 8
    assert len(_rows(whole, "layers")) == len(made.layers)


def test_ablations_are_differences_seed_by_seed(whole, made):
    (row,) = _rows(whole, "ablations")
    of = {one["name"]: one["nmse"] for one in made.layers}
    apart = [of[f"mxd-k16-w21490-s{seed}-relu"] - of[f"mxd-k16-w21490-s{seed}"] for seed in (1, 2)]
    half = stats.t.ppf(0.975, 1) * np.std(apart, ddof=1) / math.sqrt(2)
    assert float(row["nmse_difference"]) == pytest.approx(np.mean(apart))
    assert float(row["nmse_difference_half_95"]) == pytest.approx(half)
    assert (row["variant"], row["seeds"], row["k"]) == ("relu", "2", "16")


def test_other_texts_probing_steering_and_editing_reach_their_tables(whole, made):
    texts = _rows(whole, "texts")
    assert [row["text"] for row in texts[:: len(texts) // 2]] == [
        "held-out part of openwebtext",
        "code.jsonl",
    ]
    assert float(texts[8]["delta_cross_entropy"]) == pytest.approx(
        3 * float(texts[0]["delta_cross_entropy"])
    )
    probe = made.documents()["probe-ag_news"]["layers"]
    for row, layer in zip(_rows(whole, "probe-ag_news"), probe, strict=True):
        assert row["name"] == layer["name"]
        assert float(row["f1_16"]) == pytest.approx(layer["f1_by_k"]["16"], abs=0.1)
    assert len(_rows(whole, "probe-ag_news-classes")) == 4 * len(probe)
    steered = _rows(whole, "steering")
    assert {row["strength"] for row in steered} == {"1x", "4x", "16x", "100"}
    edits = _rows(whole, "editing-code-prose")
    first = edits[0]
    assert float(first["selectivity"]) == float(first["target_rise"]) - float(first["keep_rise"])
    assert json.loads(edits[1]["units"]) == [0, 1, 2, 3]


def test_paper_s_numbers_stand_beside_ours_only_where_the_set_up_is_the_paper_s(whole, tmp_path):
    rows = {(row["architecture"], row["k"]): row for row in _rows(whole, "published")}
    assert float(rows["mxd", "32"]["published_delta_cross_entropy"]) == 0.0029
    assert len(rows) == 6  # neither controls nor ablations
    made = Synthetic(architectures=("mxd",), ks=(32,), seeds=(1,))
    preset = PRESETS["gpt2-124m"].record(scale=1.0)
    wide = made.record()["recipe"] | {"layer": {"expansion": 16.0, "rule": "paper"}}
    other = Synthetic(architectures=("mxd",), ks=(32,), seeds=(1,), site="transformer.h.9.mlp")
    runs = {
        "wide": made.write(tmp_path / "wide", only=["text-code"], preset=preset, recipe=wide),
        "other": other.write(tmp_path / "other", only=["text-code"], preset=preset),
    }
    for name, run in runs.items():
        report_runs([run], tmp_path / f"{name}-out")
        assert not (tmp_path / f"{name}-out" / "tables" / "published.csv").exists()


def test_report_is_the_same_each_time_and_for_one_run_as_for_publish(tmp_path):
    made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(1,))
    run = made.write(tmp_path / "run", only=["text-code"])
    before = _contents(run)
    report_runs([run], tmp_path / "a", title="t", command="c")
    assert _contents(run) == before
    evaluation = json.loads((run / "eval" / "text-code.json").read_text())
    page = publish(run, title="t", record=made.record(), evaluation=evaluation, command="c")
    assert page == run / "report.html"
    first = _contents(tmp_path / "a")
    assert {name: _contents(run)[name] for name in first} == first


def test_runs_share_tables_only_where_they_differ_in_nothing_but_students(tmp_path):
    def run(
        name: str, seed: int, model: str = "gpt2", text: str = "text-code", **more: Any
    ) -> Path:
        made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(seed,), model=model)
        return made.write(tmp_path / name, only=[text], **more)

    one, two = run("one", 1), run("two", 2)
    report_runs([one, two, one], tmp_path / "alike")
    (row, *_) = _rows(tmp_path / "alike", "faithfulness")
    assert (row["seeds"], row["nmse_interval"]) == ("2", "seeds")
    assert "share their tables: one, two" in Page(tmp_path / "alike" / "report.html").text

    recipe = {"layer": {"rule": "exact"}, "optimizer": {"lr": {"mxd": 0.1}}}
    others = [
        run("three", 3, model="pythia", text="doctor"),
        run("four", 4, text="doctor", recipe=recipe),
        run("five", 1, text="doctor"),
        run("six", 1, text="doctor"),
    ]
    page = Page(report_runs(others, tmp_path / "apart"))
    names = sorted(path.name for path in (tmp_path / "apart" / "tables").glob("*doctor*"))
    assert names == [f"{number}-doctor.csv" for number in (1, 2, 3, 4)]
    for title in ("1. pythia (three)", "2. gpt2 (four)", "3. gpt2 (five)", "4. gpt2 (six)"):
        assert page.text.count(title) == 2  # heading and contents


def test_report_does_without_what_is_missing_or_damaged(tmp_path):
    made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(1,))
    run = made.write(tmp_path / "run", only=["held-out"])
    (run / "eval" / "held-out.json").unlink()
    odd = [
        1,
        "x",
        {"name": 3, "site": [], "architecture": None, "k": "y", "f1_by_k": [], "rank": 2},
    ]
    bad = {
        "steering": '{"kind": "steering"',
        "probe-a": json.dumps({"kind": "probe", "layers": odd, "task": None}),
        "probe-b": json.dumps({"kind": "probe", "layers": [{"classes": {"a": 3}, "k": 8}]}),
        "doctor": json.dumps({"kind": "doctor", "findings": "none", "layers": odd}),
        "editing-x": json.dumps({"kind": "editing", "layers": [{"edits": [{"m": "q"}, 4]}]}),
        "units": json.dumps({"units": [4, {"examples": 5}], "steered": []}),
        "later": json.dumps({"kind": "something new", "layers": odd}),
        "list": "[]",
        "deep": "[" * 100_000,
    }
    for name, text in bad.items():
        (run / "eval" / f"{name}.json").write_text(text)
    (run / "eval" / "bytes.json").write_bytes(b"\xff\xfe")
    (run / "metrics.jsonl").write_text('{"tokens": 5\n[1]\n\n{"tokens": "x", "nmse": null}\n')
    next((run / "layers").rglob("config.json")).write_text("{")
    page = Page(report_runs([run], tmp_path / "out"))
    for damaged in ("steering", "list", "deep", "bytes"):
        assert f"eval/{damaged}.json is damaged" in page.text
    assert "metrics.jsonl has 1 damaged of 4 lines" in page.text
    assert "config.json is damaged" in page.text
    assert "Faithfulness" not in page.text
    assert "Method" in page.text


def test_a_record_that_is_damaged_or_odd_is_no_obstacle(tmp_path):
    made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(1,))
    run = made.write(tmp_path / "run", only=["doctor"])
    (run / "run.json").write_text("{")
    assert "run.json is damaged" in Page(report_runs([run], tmp_path / "a")).text
    odd = {"base_model": 3, "recipe": [], "seeds": "x", "notes": 5, "preset": [], "students": {}}
    (run / "run.json").write_text(json.dumps(odd | {"command": "mxd", "versions": None}))
    Page(report_runs([run], tmp_path / "b"))


def _replaced(value: Any, by: Any) -> Any:
    """Every number another."""
    if isinstance(value, dict):
        return {k: _replaced(v, by) for k, v in value.items()}
    if isinstance(value, list):
        return [_replaced(item, by) for item in value]
    return by if isinstance(value, (int, float)) and not isinstance(value, bool) else value


@pytest.mark.parametrize("by", [10**400, 0], ids=["huge", "zero"])
def test_numbers_that_cannot_be_are_no_obstacle(tmp_path, by):
    made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(1,))
    run = made.write(tmp_path / "run")
    for path in [*(run / "eval").iterdir(), *(run / "layers").rglob("config.json")]:
        path.write_text(json.dumps(_replaced(json.loads(path.read_text()), by)))
    rows = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(
        "\n".join(json.dumps(_replaced(json.loads(row), by)) for row in rows)
    )
    page = Page(report_runs([run], tmp_path / "out"))
    assert "Method" in page.text


def test_training_that_diverged_ends_in_a_dash(tmp_path):
    made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(1,))
    run = made.write(tmp_path / "run", only=["doctor"])
    rows = [row | {"nmse": math.nan} if row["step"] > 10 else row for row in made.metrics()]
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    page = Page(report_runs([run], tmp_path / "out"))
    assert "Where each student's training ended" in page.text
    assert not {"nan", "inf"} & set(page.text.lower().split())


@pytest.mark.parametrize(("above", "idle"), [(0.009, True), (0.011, False)])
def test_gate_that_explains_nothing_is_said_by_the_doctors_rule(tmp_path, above, idle):
    made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(1,))
    for layer in made.layers:
        if layer["static_nmse"] is not None:
            layer["static_nmse"] = 1.05 * layer["nmse"] + above
    run = made.write(tmp_path / "run", only=["text-code"])
    text = Page(report_runs([run], tmp_path / "out")).text
    assert ("explains next to nothing" in text) == idle
    evaluation = made.evaluation("text")
    found = {one.signature for of in diagnose(evaluation).values() for one in of}
    assert bool({"interchangeable_experts", "gate_explains_nothing"} & found) == idle


def test_texts_of_the_same_name_are_told_apart(tmp_path):
    made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(1,))
    run = made.write(tmp_path / "run", only=["held-out"])
    for folder in ("a", "b"):
        document = made.evaluation(f"/home/someone/{folder}/prose.jsonl")
        (run / "eval" / f"text-{folder}.json").write_text(json.dumps(document))
    text = Page(report_runs([run], tmp_path / "out")).text
    assert "a/prose.jsonl" in text
    assert "b/prose.jsonl" in text
    assert "someone" not in text


def _spoilt(value: Any) -> Any:
    """Every text hostile, but for those that say what something is."""
    if isinstance(value, dict):
        kept = ("kind", "site", "name", "architecture", "unit_of")
        return {k: v if k in kept else _spoilt(v) for k, v in value.items()} | {HOSTILE: HOSTILE}
    if isinstance(value, list):
        return [_spoilt(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_text_is_shown_and_does_nothing(tmp_path):
    made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(1,))
    run = made.write(tmp_path / "run")
    for path in [*(run / "eval").iterdir(), run / "run.json"]:
        document = json.loads(path.read_text())
        if document.get("kind") == "probe":
            document["layers"][0]["classes"][HOSTILE] = document["layers"][0]["classes"]["World"]
        path.write_text(json.dumps(_spoilt(document)))
    page = Page(report_runs([run], tmp_path / "out", title=HOSTILE, command=HOSTILE))
    assert not page.of("script")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "\u202e" not in page.source
    assert "\x00" not in page.source
    assert "left out" not in page.text
    shown = "=<script>alert(1)</script>\N{REPLACEMENT CHARACTER}␀\"onerror='x'"
    assert page.text.count(shown) > 50
    for path in (tmp_path / "out" / "tables").iterdir():
        with path.open(encoding="utf-8", newline="") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                assert not cell.startswith(("=", "+", "@"))
    assert all(HOSTILE[:4] not in p.name for p in (tmp_path / "out").rglob("*"))


def test_report_refuses_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="expected the folder of a run"):
        report_runs([tmp_path], tmp_path / "out")
    with pytest.raises(UserError, match="got no runs"):
        report_runs([], tmp_path / "out")
    made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(1,))
    run = made.write(tmp_path / "run", only=["doctor"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"\.csv cannot be written|\.png cannot be written"):
        report_runs([run], tmp_path / "file")


def test_a_run_without_seeds_to_compare_has_intervals_by_document(tmp_path):
    made = Synthetic(architectures=("mxd",), ks=(16,), seeds=(1,))
    run = made.write(tmp_path / "run", only=["text-code"])
    text = Page(report_runs([run], tmp_path / "out")).text
    assert "One seed each." in text
    row = _rows(tmp_path / "out", "faithfulness")[0]
    assert row["delta_cross_entropy_interval"] == "documents"
    assert float(row["delta_cross_entropy_half_95"]) == pytest.approx(1.96 * 0.0006)
    assert row["nmse_half_95"] == ""
    assert SITE in text
