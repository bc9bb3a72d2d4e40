"""`mxd sweep`: a grid and its ablations from one pass, the paper's presets, and bad input."""

import re
from dataclasses import replace

import pytest
from tests.cli._parts import contents, read_json, small

import mxd
from mxd.training import PRESETS, Student, TextRecipe, named_recipe

SITE = "transformer.h.1.mlp"
GRID = {"arch": "mxd,transcoder", "k": "3,4", "seed": "1,2", "tokens": 256}
ABLATIONS = "base: {seeds: [1]}\nablations:\n- {name: relu-encoder, activation: relu}\n"


@pytest.fixture
def ablations(tmp_path):
    path = tmp_path / "ablations.yaml"
    path.write_text(ABLATIONS, encoding="utf-8")
    return path


@pytest.fixture
def tiny_preset(monkeypatch):
    """The preset of GPT-2, of the widths of the tiny GPT-2 and of a few tokens."""
    tiny = replace(PRESETS["gpt2-124m"], layer=1, d_model=32, d_hidden=128, tokens=76_800)
    monkeypatch.setitem(PRESETS, "gpt2-124m", tiny)
    return tiny


def sweep_flags(text, **flags):
    return [*small(text=text, **{**GRID, **flags}), "--eval-tokens", "300"]


def names(out):
    return sorted(path.name for path in out.glob(f"layers/{SITE}/*"))


def test_sweep_trains_evaluates_and_publishes_the_grid_and_the_ablation(
    cli, saved, text, tmp_path, ablations
):
    out = tmp_path / "run"
    flags = sweep_flags(text, out=out, json="figures.json", ablations=ablations)
    result = cli.succeeds("sweep", saved("gpt2"), *flags)
    grid = [f"{a}-k{k}-w24-s{s}" for a in ("mxd", "transcoder") for k in (3, 4) for s in (1, 2)]
    assert names(out) == sorted([*grid, "mxd-k3-w24-s1-relu-encoder"])
    document = read_json(tmp_path / "figures.json")
    assert [layer["name"] for layer in document["layers"]] == [*grid, "mxd-k3-w24-s1-relu-encoder"]
    stored = read_json(out / "eval" / "held-out.json")
    assert stored["kind"] == "faithfulness"
    assert stored["command"].startswith("mxd")
    assert stored == document
    relu = mxd.load(out / "layers" / SITE / "mxd-k3-w24-s1-relu-encoder")
    base = mxd.load(out / "layers" / SITE / "mxd-k3-w24-s1")
    assert (relu.config.activation, base.config.activation) == ("relu", "gelu_new")
    assert relu.provenance.evaluation["nmse"] == document["layers"][-1]["nmse"]
    assert (out / "report.html").stat().st_size > 1000
    assert (out / "figures" / "frontier.png").is_file()
    assert "Cross-entropy of the base model" in result.out
    assert "in the steps of 9 students; 9 single runs would harvest 9 times" in " ".join(
        result.out.split()
    )
    again = cli.succeeds("eval", out, "--tokens", 300, "--json", "again.json")
    assert read_json(tmp_path / "again.json") == document, again.out


def test_controls_are_trained_at_one_k(cli, saved, text, tmp_path):
    out = tmp_path / "run"
    grid = {"arch": "transcoder", "k": "3,4,5", "seed": "1,2", "tokens": 128}
    flags = sweep_flags(text, out=out, controls="mlp_transcoder,dense_mlp", **grid)
    cli.succeeds("sweep", saved("gpt2"), *flags)
    controls = [name for name in names(out) if not name.startswith("transcoder")]
    assert controls == [
        *(f"dense_mlp-k0-w0-s{s}" for s in (1, 2)),
        *(f"mlp_transcoder-k4-w24-s{s}" for s in (1, 2)),
    ]
    flags = sweep_flags(text, out=tmp_path / "5", controls="mlp_transcoder", control_k=5, **grid)
    cli.succeeds("sweep", saved("gpt2"), *flags)
    assert "mlp_transcoder-k5-w24-s1" in names(tmp_path / "5")


def test_unknown_control_is_refused(cli, saved, text):
    cli.refuses(["sweep", saved("gpt2"), *sweep_flags(text, controls="mlps")], "mlps", "dense_mlp")


def test_sweep_trains_what_fit_trains(cli, saved, text, tmp_path):
    flags = {"arch": "mxd,transcoder", "tokens": 256}
    cli.succeeds("fit", saved("gpt2"), *small(text=text, out=tmp_path / "fit", **flags))
    sweep = small(text=text, out=tmp_path / "sweep", **flags)
    cli.succeeds("sweep", saved("gpt2"), *sweep, "--eval-tokens", 200)
    weights = [
        {name: data for name, data in contents(tmp_path / verb).items() if "safetensors" in name}
        for verb in ("fit", "sweep")
    ]
    assert weights[0]
    assert weights[0] == weights[1]


def test_ablations_are_trained_at_every_rate_of_a_grid(cli, saved, text, tmp_path, ablations):
    flags = sweep_flags(
        text, arch="mxd", k=3, seed=5, lr="1e-3,1e-2", ablations=ablations, out=tmp_path / "run"
    )
    cli.succeeds("sweep", saved("gpt2"), *flags)
    assert names(tmp_path / "run") == sorted(
        f"mxd-k3-w24-s{seed}-lr{rate}{label}"
        for rate in ("0.001", "0.01")
        for seed, label in ((5, ""), (1, ""), (1, "-relu-encoder"))
    )


def test_preset_sets_what_is_not_given(cli, saved, text, tmp_path, tiny_preset):
    out = tmp_path / "run"
    flags = sweep_flags(
        text, layers=None, arch=None, seed=None, width=None, k="3,4", tokens=None, out=out,
        preset="gpt2-124m", scale=0.01,
    )  # fmt: skip
    result = cli.succeeds("sweep", saved("gpt2"), *flags)
    record = read_json(out / "run.json")
    assert record["recipe"]["name"] == "paper"
    assert record["recipe"]["tokens"] == 768
    assert record["recipe"]["layer"]["activation"] == "gelu"
    assert record["recipe"]["layer"]["rule"] == "paper"
    assert record["recipe"]["optimizer"]["warmup_steps"] == 50
    assert {entry["site"] for entry in record["students"]} == {SITE}
    assert len(record["students"]) == 6
    assert record["preset"] == tiny_preset.record(scale=0.01)
    model, first, other, skip = record["notes"]
    assert f"The model is {saved('gpt2')}, taken for openai-community/gpt2" in model
    assert "1 % of the tokens of preset gpt2-124m (768 of 76,800)" in first
    assert f"--text {text}" in other
    assert "--context 16" in other
    assert "--k" not in other
    assert "kip transcoder" in skip
    shown = " ".join(result.out.split())
    for note in record["notes"]:
        assert re.sub(r"\s", "", note) in re.sub(r"\s", "", shown)
    assert "of the tokens of preset" in (out / "report.html").read_text(encoding="utf-8")
    assert mxd.open_run(out).recipe.tokens == 768


def test_preset_gives_every_k_and_text_of_the_paper(cli, saved, text, tiny_preset, monkeypatch):
    asked = {}

    def stop(*arguments, **_):
        asked["recipe"] = arguments[1]
        raise mxd.UserError("stop")

    monkeypatch.setattr("mxd.cli.sweep.train", stop)
    assert cli("sweep", "--preset", "pythia-410m").code == 2
    recipe = asked["recipe"]
    assert recipe.text.source == "Skylion007/openwebtext"
    assert recipe.layers == (15,)
    assert [(s.architecture, s.k) for s in recipe.students] == [
        (a, k) for a in ("mxd", "transcoder", "skip_transcoder") for k in (16, 32, 64, 128, 256)
    ]
    paper = named_recipe("paper", TextRecipe(source="t"), layers=(0,))
    assert (recipe.tokens, recipe.optimizer) == (paper.tokens, paper.optimizer)


def test_config_file_counts_as_given(cli, saved, text, tmp_path, tiny_preset):
    (tmp_path / "c.yaml").write_text("k: 3\narch: mxd\nlr: 0.01\n", encoding="utf-8")
    flags = sweep_flags(
        text, layers=None, arch=None, k=None, seed=None, tokens=128, out=tmp_path / "run",
        preset="gpt2-124m", config=tmp_path / "c.yaml",
    )  # fmt: skip
    cli.succeeds("sweep", saved("gpt2"), *flags)
    assert names(tmp_path / "run") == ["mxd-k3-w24-s42"]
    assert "--lr 0.01" in read_json(tmp_path / "run" / "run.json")["notes"][2]


def test_scale_without_a_preset_is_noted(cli, saved, text, tmp_path):
    out = tmp_path / "run"
    flags = sweep_flags(text, arch="mxd", k=3, seed=1, tokens=2560, scale=0.1, out=out)
    cli.succeeds("sweep", saved("gpt2"), *flags)
    record = read_json(out / "run.json")
    assert record["recipe"]["tokens"] == 256
    assert record["notes"] == ["Trained on 10 % of the token budget of recipe small: 256 tokens."]
    assert "preset" not in record


def test_run_gets_the_next_free_name(cli, saved, text, tmp_path):
    flags = sweep_flags(text, arch="mxd", k=3, seed=1, tokens=128)
    assert "mxd-sweep-gpt2" in cli.succeeds("sweep", saved("gpt2"), *flags).out
    assert (tmp_path / "mxd-sweep-gpt2" / "report.html").is_file()


def test_interrupted_sweep_keeps_the_layers(cli, saved, text, tmp_path, monkeypatch):
    step, calls = Student.step, []

    def stop_at_the_fifth(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        step(*arguments)

    monkeypatch.setattr(Student, "step", stop_at_the_fifth)
    out = tmp_path / "run"
    result = cli("sweep", saved("gpt2"), *small(text=text, seed=1, out=out))
    assert result.code == 130
    assert f"mxd eval {out}" in result.err
    assert names(out) == ["mxd-k3-w24-s1"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scale": 0}, "got scale 0"),
        ({"scale": 2}, "got scale 2"),
        ({"scale": "nan"}, "got scale nan"),
        ({"preset": "gpt3"}, "gpt3"),
        ({"preset": "gpt2-124m"}, "--layers"),
        ({"preset": "gpt2-124m", "layers": None, "site": "a"}, "--site"),
        ({"preset": "pythia-410m", "layers": None, "tokens": 128}, "blocks"),
        ({"preset": "gpt2-124m", "layers": None, "tokens": 128}, "blocks"),
        ({"layers": None}, "--layers"),
        ({"ablations": "none.yaml"}, "none.yaml"),
        ({"json": "nowhere/figures.json"}, "nowhere"),
        ({"eval_tokens": 0}, "at least 1"),
        ({"track_experts": -1}, "-1"),
        ({"start": "warm"}, "warm"),
        ({"d_hidden": 40, "start": "base_mlp"}, "start base_mlp with d_hidden=40"),
    ],
)
def test_bad_flags_are_refused(cli, saved, text, changes, named):
    cli.refuses(["sweep", saved("gpt2"), *small(**{"text": text, **changes})], named)


def test_neither_model_nor_preset_is_refused(cli, text):
    cli.refuses(["sweep", *small(text=text)], "MODEL", "--preset")


def test_model_of_other_widths_than_the_presets_is_refused(
    cli, saved, text, tiny_preset, monkeypatch
):
    monkeypatch.setitem(PRESETS, "gpt2-124m", replace(tiny_preset, d_hidden=3072))
    flags = small(text=text, layers=None, preset="gpt2-124m")
    cli.refuses(["sweep", saved("gpt2"), *flags], "128 hidden units", "3072", "gpt2-124m")


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("random_k: false", {}),
        ("start: base_mlp", {"start": "base_mlp"}),
        ("width: 24", {}),
    ],
)
def test_ablations_that_change_nothing_are_refused(cli, text, ablations, line, flags):
    ablations.write_text(f"ablations: [{{name: same, {line}}}]", encoding="utf-8")
    asked = small(text=text, ablations=ablations, **flags)
    cli.refuses(["sweep", "no/such-model", *asked], ablations, "changes nothing in same")


def test_bad_ablations_are_refused_before_the_model_is_loaded(cli, text, ablations):
    ablations.write_text("ablations: [{name: a, with: 3}]", encoding="utf-8")
    flags = small(text=text, ablations=ablations)
    cli.refuses(["sweep", "no/such-model", *flags], ablations, "'with'")
