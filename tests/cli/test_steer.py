"""`mxd steer`: samples with and without, and the study with judges."""

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.cli._parts import read_json, small
from tests.helpers.judge_server import KEY, judge_server

import mxd

PROMPT = ("--prompt", "w3 w4")
FEW = (*PROMPT, "--new-tokens", 4, "--samples", 2)
SCORES = {"sets", "failed", "concept", "concept_se", "fluency", "fluency_se", "covariance"}


@pytest.fixture(scope="module")
def wide(saved, text, tmp_path_factory) -> Path:
    """A run with an MxD of 80 experts and a control without units."""
    from mxd.cli.main import run

    out = tmp_path_factory.mktemp("wide") / "run"
    flags = small(text=text, arch="mxd,dense_mlp", k=12, width=80, out=out)
    assert run(["fit", str(saved("gpt2")), *flags]) == 0
    return out


@pytest.fixture
def run_folder(cli, wide, tmp_path) -> Path:
    return shutil.copytree(wide, tmp_path / "run")


def kill_unit(run: Path, unit: int) -> None:
    (folder,) = (path.parent for path in run.glob("layers/*/mxd-*/config.json"))
    layer = mxd.load(folder)
    layer.gate.weight.data[unit] = 0
    layer.gate.bias.data[unit] = -1
    layer.save_pretrained(folder)


def live_units(run: Path, cli) -> list[int]:
    cli.succeeds("steer", run, "--study", 3, "--strengths", "1", "--judge", "none", *FEW)
    units: list[int] = read_json(run / "eval" / "steering.json")["layers"][0]["units"]
    return units


def test_samples_with_and_without_are_printed(cli, run_folder, tmp_path):
    one, two, _ = live_units(run_folder, cli)
    flags = ("--expert", f"{one},{two}", "--strength", "1000", *FEW, "--json", tmp_path / "s.json")
    result = cli.succeeds("steer", run_folder, *flags)
    document = read_json(tmp_path / "s.json")
    assert read_json(run_folder / "eval" / "steered.json") == document
    assert [texts["unit"] for texts in document["units"]] == [one, two]
    assert result.out.count("as it is ") == result.out.count("turned up ") == 4
    for texts in document["units"]:
        assert len(texts["plain_samples"]) == len(texts["steered_samples"]) == 2
        assert texts["plain_samples"] != texts["steered_samples"]
        assert all(sample in result.out for sample in texts["steered_samples"])
    cli.succeeds("steer", run_folder, *flags[:-1], tmp_path / "t.json")
    again = read_json(tmp_path / "t.json")
    assert again["units"] == document["units"]


def test_strength_may_be_a_multiple_of_the_unit_s_maximum(cli, run_folder):
    unit, *_ = live_units(run_folder, cli)
    cli.succeeds("steer", run_folder, "--expert", unit, "--strength", "4x", *FEW)
    (texts,) = read_json(run_folder / "eval" / "steered.json")["units"]
    assert texts["strength"] == pytest.approx(4 * texts["maximum"])
    assert texts["maximum"] > 0


def test_dead_expert_is_refused_unless_forced(cli, run_folder):
    kill_unit(run_folder, 7)
    line = ["steer", run_folder, "--expert", 7, *FEW]
    cli.refuses(line, "unit 7", "never fires", "--force")
    assert "turned up" in cli.succeeds(*line, "--force").out
    cli.refuses([*line, "--force", "--strength", "4x"], "unit 7", "strength of its own")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ((), ["--expert", "--study"]),
        (("--expert", 1, "--study", 5), ["--expert", "--study"]),
        (("--expert", 80), ["unit 80", "0 to 79"]),
        (("--expert", -1), ["unit -1"]),
        (("--expert", "one"), ["one"]),
        (("--expert", 1, "--strength", "4y"), ["4y"]),
        (("--expert", 1, "--strength", "1,2"), ["--strength"]),
        (("--expert", 1, "--top-p", 0), ["top_p"]),
        (("--expert", 1, "--prompt", "w3 " * 60), ["64"]),
        (("--expert", 1, "--prompt", "w3 \udcff"), ["UTF-8"]),
        (("--study", 5, "--prompt", "w3 " * 60), ["64"]),
        (("--study", 5, "--judge-model", "m", "--judge-url", "http://[::1"), ["'http://[::1'"]),
        (
            ("--study", 5, "--judge-model", "m", "--judge-url", "http://localhost:1/v1",
             "--cache", "run/run.json"),
            ["run/run.json", "--cache"],
        ),
        (("--expert", 1, "--student", "dense_mlp"), ["dense_mlp"]),
        (("--study", 5, "--samples", 1), ["samples"]),
        (("--study", 5, "--judge-url", "http://127.0.0.1:9/v1"), ["--judge-model"]),
        (("--study", 5, "--judge-model", "m", "--judge-url", "nowhere"), ["nowhere"]),
        (("--study", 5, "--judge-model", "m", "--judge-price", "1,2,3"), ["--judge-price"]),
        (("--study", 5, "--judge-model", "m", "--judge-key-env", "MXD_NO_KEY"), ["MXD_NO_KEY"]),
        (
            ("--study", 5, "--judge-model", "a,b,c", "--judge-url", "http://a/", "--judge-url",
             "http://b/"),
            ["--judge-url", "a, b, c"],
        ),
        (("--study", 5, "--strengths", ""), ["strengths"]),
        (("--study", 5, "--student", "dense_mlp"), ["no layer with units"]),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input_is_refused(cli, run_folder, flags, named):
    cli.refuses(["steer", run_folder, *flags], *named)


def test_judge_that_cannot_be_reached_is_refused_before_work(cli, run_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        line = ["steer", run_folder, "--study", 5, "--judge-model", "m", "--judge-url", url]
        cli.refuses(line, url, "cannot be reached")


def test_study_of_fifty_units_with_the_offline_judge_and_two_endpoints(
    cli, run_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def answer(_: int, question: dict[str, Any]) -> str:
        number = sum(map(ord, question["messages"][1]["content"]))
        if question["model"] == "strict":
            return f"0.1, 0.{number % 10}"
        return "concept: 0.5, fluency: 0.9" if number % 2 else "Lovely texts!"

    line = ["steer", run_folder, "--study", 50, "--strengths", "2x,100", *FEW, "--json"]
    with judge_server(answer) as server:
        line[2:2] = ["--judge-url", server.url, "--judge-model", "strict,kind"]
        line[2:2] = ["--judge-price", "10,100", "--tokens", 2000]
        result = cli.succeeds(*line, tmp_path / "s.json")
        asked = len(server.questions)
        again = cli.succeeds(*line, tmp_path / "t.json")
        kind = {str(question["messages"][1]) for question in server.questions[asked:]}
        assert {question["model"] for question in server.questions[asked:]} <= {"kind"}
        assert len(kind) * 2 == len(server.questions) - asked  # what failed, twice each
        assert server.keys == {f"Bearer {KEY}"}
    document = read_json(tmp_path / "s.json")
    assert read_json(run_folder / "eval" / "steering.json")["layers"] == document["layers"]
    assert read_json(tmp_path / "t.json")["judges"] == document["judges"]
    _check_study(document)
    assert "from the cache, 0 + 0 tokens spent, cost 0" in again.out
    assert "strict" in result.out
    for path in run_folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def _check_study(document: dict[str, Any]) -> None:
    assert document["kind"] == "steering"
    assert document["prompt"] == "w3 w4"
    (layer,) = document["layers"]
    assert (layer["architecture"], layer["k"], layer["width"]) == ("mxd", 12, 80)
    assert len(layer["units"]) == 50
    assert [(s["strength"], s["unit_of"]) for s in layer["strengths"]] == [
        (2, "max"), (100, "absolute")
    ]  # fmt: skip
    for entry in layer["strengths"]:
        for swept in (entry, entry["random_direction"]):
            assert set(swept["judges"]) == {"offline", "strict", "kind", "mean"}
            assert all(set(scores) == SCORES for scores in swept["judges"].values())
            for scores in swept["judges"].values():
                assert scores["sets"] + scores["failed"] == len(swept["per_unit"]) == 50
            assert swept["judges"]["strict"]["concept"] == pytest.approx(0.1)
            assert 0 < swept["distinct_1"] <= 1
    assert layer["unsteered"]["judges"]["strict"]["sets"] == 1
    assert len(document["unsteered"]["samples"]) == 2
    strict, kind = document["judges"][1:]
    assert (strict["failed"], strict["verdicts"]) == (0, 202)
    assert strict["cost"] == pytest.approx(strict["calls"] * (100 * 10 + 7 * 100) / 1e6)
    assert kind["failed"] > 0
    failed = [
        each["judges"]["kind"]["answer"]
        for each in layer["strengths"][0]["per_unit"]
        if each["judges"]["kind"]["concept"] is None
    ]
    assert set(failed) == {"Lovely texts!"}


def test_judge_that_breaks_off_leaves_what_was_found(cli, run_folder):
    line = ["steer", run_folder, "--study", 5, "--strengths", "100", *FEW]
    line += ["--judge-retries", 0, "--judge-model", "m", "--judge-url"]
    with judge_server(lambda n, q: "0.5, 0.5" if n < 4 else 500) as server:
        result = cli(*line, server.url)
    assert result.code == 2
    assert "refused with 500" in result.err
    assert "steering.json" in result.err
    assert "Traceback" not in result.err
    document = read_json(run_folder / "eval" / "steering.json")
    entry = document["layers"][0]["strengths"][0]
    assert entry["judges"]["offline"]["failed"] == 0
    assert entry["judges"]["m"]["failed"] > 0
    assert "500" in document["stopped"]["m"]
    cache = (run_folder / "eval" / "judge-cache.jsonl").read_text().splitlines()
    assert len(cache) == 4


def test_ctrl_c_says_what_is_kept(cli, run_folder, monkeypatch):
    import importlib

    module = importlib.import_module("mxd.cli.steer")
    study = module.steering_study

    def interrupted(*arguments: Any, **options: Any) -> None:
        study(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "steering_study", interrupted)
    result = cli("steer", run_folder, "--study", 2, "--strengths", "1", "--judge", "none", *FEW)
    assert result.code == 130
    assert "finished and kept in" in result.err
    assert read_json(run_folder / "eval" / "steering.json")["layers"]


def test_strength_beyond_all_numbers_is_refused(cli, run_folder):
    line = ["steer", run_folder, "--study", 2, "--strengths", "1e39", "--judge", "none", *FEW]
    cli.refuses(line, "NaN or infinite predictions", "smaller strength")
    line = ["steer", run_folder, "--expert", 2, "--strength", "1e39", "--force", *FEW]
    cli.refuses(line, "does not hold", "smaller strength")


def test_study_without_judges_has_distinct_n_and_examples(cli, run_folder):
    cli.succeeds("steer", run_folder, "--study", 3, "--strengths", "1x", "--judge", "none",
                 "--no-random-directions", *FEW)  # fmt: skip
    (layer,) = read_json(run_folder / "eval" / "steering.json")["layers"]
    (entry,) = layer["strengths"]
    assert (entry["judges"], entry["random_direction"]) == ({}, None)
    assert entry["distinct_1"] > 0
    assert [example["strength"] for example in layer["examples"]] == [None, "1x", "1x", "1x"]


def test_flags_may_come_from_a_file(cli, run_folder, tmp_path):
    (tmp_path / "steer.yaml").write_text(
        "study: 2\nstrengths: [1x, 5]\njudge: none\nprompt: w3\nnew-tokens: 3\nsamples: 2\n"
    )
    cli.succeeds("steer", run_folder, "--config", tmp_path / "steer.yaml")
    document = read_json(run_folder / "eval" / "steering.json")
    assert document["protocol"]["strengths"] == ["1x", "5"]
