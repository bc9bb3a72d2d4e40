"""`mxd eval` on several texts, and what it says of geometry and specialisation."""

import shutil

import pytest
from tests.cli._parts import read_json, write_text

from mxd.cli.eval import measure

FEW = ["--tokens", "400", "--rank-experts", "4"]


@pytest.fixture
def run_folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def others(tmp_path):
    """Two texts of the same name."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        write_text(folder / "other text.jsonl.gz", documents=30, seed=number + 5)
    return [folder / "other text.jsonl.gz" for folder in folders]


def test_several_texts_have_a_file_each_and_one_table(cli, run_folder, others, tmp_path):
    flags = [*FEW, "--held-out", "--json", tmp_path / "all.json"]
    result = cli.succeeds("eval", run_folder, *flags, "--text", others[0], "--text", others[1])
    documents = read_json(tmp_path / "all.json")["texts"]
    names = ["held-out", "text-other-text.jsonl.gz", "text-other-text.jsonl.gz-2"]
    assert [read_json(run_folder / "eval" / f"{name}.json") for name in names] == documents
    assert [document["text"] for document in documents][1:] == [str(path) for path in others]
    assert len({document["layers"][0]["nmse"] for document in documents}) == 3
    assert "The same layers on other text" in result.out
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "On other texts" in page
    for folder in ("a", "b"):  # of the same name
        assert f"{folder}/other text.jsonl.gz" in result.out
        assert f"{folder}/other text.jsonl.gz" in page
    for document in documents:
        for layer in document["layers"]:
            assert f"{layer['nmse']:.4f}" in result.out
    cli.succeeds("eval", run_folder, *FEW, "--text", others[1])
    stored = {path.name for path in (run_folder / "eval").iterdir()}
    assert stored == {f"{name}.json" for name in names}  # the same text keeps its file


def test_texts_can_be_listed_in_a_file(cli, run_folder, others, tmp_path):
    config = tmp_path / "eval.yaml"
    listed = "".join(f"  - {path}\n" for path in others)
    config.write_text(f"tokens: 400\nrank-experts: 4\ntext:\n{listed}", encoding="utf-8")
    cli.succeeds("eval", run_folder, "--config", config, "--json", tmp_path / "all.json")
    texts = read_json(tmp_path / "all.json")["texts"]
    assert [document["text"] for document in texts] == [str(path) for path in others]
    config.write_text(f"tokens: 400\ntext: {others[0]}\n", encoding="utf-8")
    cli.succeeds("eval", run_folder, "--config", config, "--json", tmp_path / "one.json")
    assert read_json(tmp_path / "one.json")["text"] == str(others[0])


def test_document_holds_geometry_and_specialisation(cli, run_folder):
    cli.succeeds("eval", run_folder, *FEW)
    document = read_json(run_folder / "eval" / "held-out.json")
    assert document["kind"] == "faithfulness"
    assert document["command"].startswith("mxd")
    assert [layer["architecture"] for layer in document["geometry"]] == ["mxd", "transcoder"]
    mxd, transcoder = document["geometry"]
    assert len(mxd["rank"]["experts"]) == 4
    assert transcoder["rank"] is None
    assert transcoder["weighted_similarity"] is None
    for layer, usage in zip(document["layers"], document["specialisation"], strict=True):
        assert (usage["name"], usage["site"]) == (layer["name"], layer["site"])
        assert usage["dead_fraction"] == layer["dead_fraction"]
        assert usage["usage_entropy"] == pytest.approx(layer["usage_entropy"])
        assert sum(usage["log10_frequency_counts"]) == usage["units"] - usage["dead"]


def test_geometry_can_be_left_out(cli, run_folder):
    cli.succeeds("eval", run_folder, "--tokens", "400", "--rank-experts", "0")
    document = read_json(run_folder / "eval" / "held-out.json")
    assert document["geometry"] == []
    assert len(document["specialisation"]) == 2


def test_every_text_is_read_before_the_first_is_evaluated(cli, run_folder, others):
    cli.refuses(["eval", run_folder, *FEW, "--text", others[0], "--text", "absent.jsonl"], "absent")
    cli.refuses(["eval", run_folder, "--rank-experts", "-1"], "rank-experts")


def test_chosen_students_are_evaluated_elsewhere_and_nothing_else_changes(cli, run_folder, others):
    report = run_folder / "report.html"
    cli.succeeds("eval", run_folder, *FEW)
    before = (report.read_bytes(), (run_folder / "eval" / "held-out.json").read_bytes())
    cli.succeeds("eval", run_folder, *FEW, "--text", others[0], "--student", "mxd-k3-*-s42")
    stored = read_json(run_folder / "eval" / "text-other-text.jsonl.gz.json")
    assert [layer["name"] for layer in stored["layers"]] == ["mxd-k3-w24-s42"]
    assert [layer["name"] for layer in stored["specialisation"]] == ["mxd-k3-w24-s42"]
    assert before == (report.read_bytes(), (run_folder / "eval" / "held-out.json").read_bytes())


@pytest.mark.parametrize("which", [[], ["--held-out"]], ids=["alone", "with others"])
def test_chosen_students_on_the_held_out_text_are_refused(cli, run_folder, others, which):
    flags = [*which, *(["--text", others[0]] if which else [])]
    cli.refuses(["eval", run_folder, *FEW, *flags, "--student", "mxd"], "--student", "held-out")


@pytest.mark.parametrize("pattern", ["mxd-k9-*", "mxx", "skip_transcoder"])
def test_students_that_are_not_there_are_refused(cli, run_folder, others, pattern):
    flags = ["--text", others[0], "--student", pattern]
    cli.refuses(["eval", run_folder, *FEW, *flags], pattern, "transcoder-k3-w24-s42")


def test_interrupted_evaluation_says_which_texts_are_done(cli, run_folder, others, monkeypatch):
    calls = []

    def stop_at_the_second(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr("mxd.cli.eval.measure", stop_at_the_second)
    flags = [*FEW, "--held-out", "--text", others[0]]
    result = cli("eval", run_folder, *flags)
    assert result.code == 130
    assert f"{run_folder}/eval: held-out.json" in result.err
    assert [path.name for path in (run_folder / "eval").iterdir()] == ["held-out.json"]
    assert (run_folder / "report.html").is_file()
    calls[:] = [1]
    assert "nothing is kept" in cli("eval", run_folder, *flags).err
