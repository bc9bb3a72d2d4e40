import re

import pytest
from tests.cli._parts import read_json
from tests.cli.test_fit_and_eval import DOCUMENT_KEYS, LAYER_KEYS

import mxd
from mxd.demo import demo_recipe
from mxd.demo.run import ARCHITECTURES


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr("mxd.demo.run.EVALUATION_TOKENS", 4096)


@pytest.mark.parametrize(("arch", "ks"), [("gpt2", (4, 8)), ("llama", (8,))], ids=["gpt2", "llama"])
def test_demo_takes_a_bundled_model_apart(cli, tmp_path, monkeypatch, arch, ks):
    monkeypatch.setattr("mxd.demo.run.KS", ks)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine.txt").write_text("dear", encoding="utf-8")
    flags = ("--arch", arch, "--tokens", 8192, "--out", "demo", "--json", "figures.json")
    result = cli.succeeds("demo", *flags)
    out = tmp_path / "demo-2"
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["mine.txt"]

    document = read_json(tmp_path / "figures.json")
    assert set(document) >= DOCUMENT_KEYS
    for layer in document["layers"]:
        assert set(layer) >= LAYER_KEYS
        assert layer["parameters"] > 0
    sparse = {(layer["architecture"], layer["k"]) for layer in document["layers"]}
    assert sparse >= {(a, k) for a in ARCHITECTURES for k in ks}
    assert {layer["architecture"] for layer in document["layers"]} - set(ARCHITECTURES) == {
        "mlp_transcoder", "dense_mlp",
    }  # fmt: skip
    stored = read_json(out / "eval" / "held-out.json")
    assert stored.pop("kind") == "faithfulness"
    assert stored.pop("command").startswith("mxd")
    assert stored == document

    for name in ("frontier", "activity", "training"):
        for ending in ("png", "svg"):
            assert (out / "figures" / f"{name}.{ending}").stat().st_size > 1000
    report = (out / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>\s]*)""", report)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "url(" not in report

    units = read_json(out / "eval" / "units.json")["units"]
    assert result.out.count("\nExpert ") == len(units) == 3
    for unit in units:
        assert len(unit["examples"]) == 5
    assert "turned up" in result.out
    assert str(out.relative_to(tmp_path) / "report.html") in result.out.replace("\n", "")
    for path in out.glob("layers/*/*"):
        assert mxd.load(path).provenance.base_model == f"small-{arch}"


def test_demo_trains_three_architectures_at_three_k_and_two_controls():
    recipe = demo_recipe(seed=7)
    trained = [(student.architecture, student.k) for student in recipe.students]
    assert trained[:-2] == [(a, k) for a in ARCHITECTURES for k in (4, 8, 16)]
    assert [name for name, _ in trained[-2:]] == ["mlp_transcoder", "dense_mlp"]
    assert {student.seed for student in recipe.students} == {recipe.seed} == {7}


def test_demo_without_a_name_counts_up(cli, tmp_path, monkeypatch):
    asked = []

    def stop(_arch: str, out: object, **_: object) -> None:
        asked.append(str(out))
        raise mxd.UserError("got enough, expected no more; stop")

    monkeypatch.setattr("mxd.cli.demo.run_demo", stop)
    cli("demo")
    (tmp_path / "mxd-demo-gpt2").mkdir()
    (tmp_path / "mxd-demo-gpt2-2").mkdir()
    cli("demo")
    cli("demo", "--arch", "llama")
    assert asked == ["mxd-demo-gpt2", "mxd-demo-gpt2-3", "mxd-demo-llama"]


def test_run_of_a_bundled_model_is_evaluated_by_its_name(cli, text, tmp_path):
    flags = ("--text", text, "--layers", 0, "--arch", "mxd", "--k", 2, "--width", 16)
    few = ("--context", 32, "--tokens", 512, "--batch-tokens", 128, "--holdout", 0.3)
    cli.succeeds("fit", "small-llama", *flags, *few, "--out", "run")
    assert read_json(tmp_path / "run" / "run.json")["base_model"]["name"] == "small-llama"
    assert cli.succeeds("eval", "run", "--tokens", 200).err == ""
