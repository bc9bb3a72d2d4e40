import json
import shutil
from pathlib import Path

import pytest
from tests.cli._parts import read_json
from tests.evaluation.probing._parts import marked_texts, write_rows

from mxd.cli import probe as verb
from mxd.evaluation import probe as probe_library

QUICK = ("--bootstrap", "50", "--candidates", "8")


@pytest.fixture
def run_folder(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def task(tmp_path) -> Path:
    return write_rows(tmp_path / "marked.jsonl", marked_texts())


def test_figures_are_printed_stored_and_written(cli, run_folder, task):
    result = cli.succeeds("probe", run_folder, "--task", task, *QUICK, "--json", "a.json")
    document = read_json(Path("a.json"))
    assert document == read_json(run_folder / "eval" / "probe-marked.json")
    assert (document["kind"], document["task"], document["level"]) == ("probe", "marked", "text")
    assert document["command"].startswith("mxd")
    assert (document["train_texts"], document["test_texts"]) == (90, 30)
    assert document["skipped_texts"] == 0
    assert [layer["architecture"] for layer in document["layers"]] == ["mxd", "transcoder"]
    for layer in document["layers"]:
        assert list(layer["f1_by_k"]) == ["1", "2", "5", "16", "all"]
        assert set(layer["classes"]) == {"c0", "c1", "c2"}
        for figures in layer["classes"].values():
            low, high = figures["f1_ci"]
            assert 0 <= low <= figures["f1"] <= high <= 1
        assert 0 < layer["dense_f1"] <= 1
        assert 0 < layer["random_f1"] <= 1
        assert layer["paper_f1_mean"] is None
        assert f"{layer['f1_mean']:.3f}" in result.out
    (difference,) = document["differences"]
    assert difference["ours"].startswith("mxd")


def test_the_same_command_writes_the_same_bytes(cli, run_folder, task):
    command = ["probe", run_folder, "--task", task, *QUICK, "--student", "mxd", "--selection"]
    stored = run_folder / "eval" / "probe-marked.json"
    cli.succeeds(*command, "both", "--k", "1,all")
    first = stored.read_bytes()
    (layer,) = json.loads(first)["layers"]
    assert layer["paper_f1_mean"] >= layer["f1_mean"] - 1e-12
    assert list(layer["f1_by_k"]) == ["1", "all"]
    assert layer["f1_equal_candidates"] is None
    cli.succeeds(*command, "both", "--k", "1,all")
    assert stored.read_bytes() == first
    cli.succeeds(*command, "paper", "--k", "1,all")
    (other,) = read_json(stored)["layers"]
    assert other["f1_mean"] == layer["paper_f1_mean"]


def test_tagged_words_are_probed_from_a_yaml_file_of_flags(cli, run_folder, tmp_path):
    tags = ["A", "B", "C", "C", "C"]
    rows = [{"tokens": ["w3", "w4", "w5", "w6", f"w{7 + i % 9}"], "tags": tags} for i in range(60)]
    path = write_rows(tmp_path / "tags.jsonl", rows)
    Path("flags.yaml").write_text(f"task: {path}\nk: [1, all]\nbootstrap: 20\nlimit: 50\n")
    cli.succeeds("probe", run_folder, "--config", "flags.yaml", "--json", "a.json")
    document = read_json(Path("a.json"))
    assert (document["level"], document["train_texts"], document["test_texts"]) == ("token", 40, 10)


def test_end_of_sentences_cannot_be_chosen(cli, run_folder, tmp_path):
    rows = [{"tokens": ["w3", "w4"], "tags": ["A", "B"]}] * 60
    path = write_rows(tmp_path / "tags.jsonl", rows)
    cli.refuses(["probe", run_folder, "--task", path, "--take", "last"], "take='last'", path)


def test_file_of_the_longest_name_is_probed(cli, run_folder, tmp_path):
    path = write_rows(tmp_path / f"{'m' * 249}.jsonl", marked_texts())
    cli.succeeds("probe", run_folder, "--task", path, *QUICK, "--student", "mxd")
    (stored,) = (run_folder / "eval").glob("probe-*.json")
    assert read_json(stored)["task"] == "m" * 200


def test_interrupted_work_is_kept(cli, run_folder, task, monkeypatch):
    def stop_after_one(*arguments, on_layer, **options):
        def keep(figures):
            on_layer(figures)
            raise KeyboardInterrupt

        return probe_library(*arguments, on_layer=keep, **options)

    monkeypatch.setattr(verb, "probe", stop_after_one)
    result = cli("probe", run_folder, "--task", task, *QUICK)
    assert result.code == 130
    assert "eval/probe-marked.json" in result.err
    (layer,) = read_json(run_folder / "eval" / "probe-marked.json")["layers"]
    assert layer["architecture"] == "mxd"


def test_hostile_labels_are_shown_harmless(cli, run_folder, tmp_path):
    rows = [{**row, "label": f"[red]\x1b[2J{row['label']}"} for row in marked_texts()]
    path = write_rows(tmp_path / "t.jsonl", rows)
    result = cli.succeeds("probe", run_folder, "--task", path, *QUICK)
    assert "\x1b" not in result.out
    assert "[red]" in result.out


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"text": "w3", "label": "a"}] * 60, ["single class 'a'"]),
        ([{"text": "w3", "label": str(i % 2)} for i in range(30)], ["training", "at least 20"]),
        ([{"text": "w3", "label": str(i % 2)} for i in range(80)], ["80 texts were skipped"]),
        ([{"text": "w3"}], ["no 'label'", "line 1"]),
    ],
    ids=["one class", "few", "short", "no label"],
)
def test_unfit_task_is_refused(cli, run_folder, tmp_path, rows, named):
    path = write_rows(tmp_path / "t.jsonl", rows)
    cli.refuses(["probe", run_folder, "--task", path], path, *named)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--task", "imdb"], ["imdb", "bias_in_bios"]),
        (["--task", "ag_news"], ["fancyzhx/ag_news"]),
        ([], ["--task"]),
        (["--task", "marked.jsonl", "--k", "0"], ["'0'", "at least 1, or all"]),
        (["--task", "marked.jsonl", "--student", "moe"], ["'moe'"]),
        (["--task", "marked.jsonl", "--site", "x"], ["'x'"]),
        (["--task", "marked.jsonl", "--selection", "best"], ["'best'"]),
        (["--task", "marked.jsonl", "--json", "no/a.json"], ["no/a.json"]),
        (["--task", "marked.jsonl", "--task-data", "x"], ["data for the task"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_unfit_flag_is_refused(cli, run_folder, task, flags, named):
    cli.refuses(["probe", run_folder, *flags], *named)


@pytest.mark.shared
def test_real_texts_are_probed_with_a_bundled_model(cli, tmp_path):
    from tests.test_shared_data import _shared

    text = _shared("data", "probes", "ag_news.jsonl.gz")
    flags = ["--layers", "3", "--arch", "mxd", "--k", "8", "--width", "256", "--tokens", "2048"]
    flags += ["--batch-tokens", "512", "--buffer-contexts", "32", "--precision", "float32"]
    corpus = _shared("data", "corpus", "test.jsonl.gz")
    few = ["--bootstrap", "50", "--candidates", "4", "--k", "2"]
    cli.succeeds("fit", "small-gpt2", "--text", corpus, "--out", "run", *flags)
    cli.succeeds("probe", "run", "--task", text, "--limit", "120", "--json", "a.json", *few)
    (layer,) = read_json(Path("a.json"))["layers"]
    assert 0.1 < layer["f1_mean"] < 1
    assert layer["dense_f1"] > 0.4
    tags = _shared("data", "probes", "pos_tags.jsonl.gz")
    cli.succeeds("probe", "run", "--task", tags, "--limit", "50", "--json", "b.json", *few)
    document = read_json(Path("b.json"))
    assert document["level"] == "token"
    assert "X" in document["classes_left_out"]
    assert document["layers"][0]["dense_f1"] > 0.4
