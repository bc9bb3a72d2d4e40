import json

import pytest
from safetensors.torch import load_file
from tests.cli._parts import read_json, small, write_text

import mxd


def _layers(out):
    return sorted(path.name for path in out.glob("layers/*/*"))


def test_lists_of_the_command_line_make_a_layer_each(cli, saved, text, tmp_path):
    out = tmp_path / "run"
    flags = small(text=text, arch="mxd,transcoder", k="3,4", seed="1,2", tokens=128, out=out)
    cli.succeeds("fit", saved("gpt2"), *flags)
    assert _layers(out) == sorted(
        f"{a}-k{k}-w24-s{s}" for a in ("mxd", "transcoder") for k in (3, 4) for s in (1, 2)
    )


def test_several_rates_are_told_apart_by_name(cli, saved, text, tmp_path):
    out = tmp_path / "run"
    cli.succeeds("fit", saved("gpt2"), *small(text=text, lr="1e-3,0.02", tokens=128, out=out))
    assert _layers(out) == ["mxd-k3-w24-s42-lr0.001", "mxd-k3-w24-s42-lr0.02"]


def test_dense_controls_are_trained_once_for_all_k(cli, saved, text, tmp_path):
    out = tmp_path / "run"
    flags = small(text=text, arch="mxd,dense_mlp", k="3,4", tokens=128, out=out)
    cli.succeeds("fit", saved("gpt2"), *flags)
    assert [name for name in _layers(out) if name.startswith("dense")] == ["dense_mlp-k0-w0-s42"]
    cli.succeeds("eval", out, "--tokens", 200, "--json", "figures.json")
    dense = read_json(tmp_path / "figures.json")["layers"][-1]
    assert dense["width"] is None
    assert dense["l0"] is None


def test_output_gets_the_next_free_name(cli, saved, text, tmp_path):
    for _ in range(2):
        assert "mxd-fit-gpt2" in cli.succeeds("fit", saved("gpt2"), *small(text=text)).out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mxd-fit-gpt2", "mxd-fit-gpt2-2"]


def test_expansion_matches_parameters(cli, saved, text, tmp_path):
    out = tmp_path / "run"
    flags = small(
        text=text, width=None, expansion=16, arch="mxd,transcoder,skip_transcoder",
        tokens=128, out=out,
    )  # fmt: skip
    cli.succeeds("fit", saved("gpt2"), *flags)
    counts = [mxd.load(path).cost().parameters for path in out.glob("layers/*/*")]
    assert max(counts) - min(counts) <= 0.02 * max(counts)


def test_evaluation_text_is_evaluated_on_and_not_trained_on(cli, saved, text, tmp_path):
    other = write_text(tmp_path / "other.jsonl.gz", documents=20, seed=1)
    out = tmp_path / "run"
    cli.succeeds("fit", saved("gpt2"), *small(text=text, eval_text=other, out=out))
    cli.succeeds("eval", out, "--tokens", 5000)
    document = read_json(out / "eval" / "held-out.json")
    assert document["documents"] == 10
    assert str(other) in next(out.glob("layers/*/*/README.md")).read_text(encoding="utf-8")
    cli.succeeds("eval", out, "--tokens", 5000, "--text", other)
    assert read_json(out / "eval" / "text-other.jsonl.gz.json") == document


def test_held_out_documents_are_whole_ones(cli, saved, text, tmp_path):
    out = tmp_path / "run"
    cli.succeeds("fit", saved("gpt2"), *small(text=text, out=out))
    cli.succeeds("eval", out, "--tokens", 10**6)
    assert 1 < read_json(out / "eval" / "held-out.json")["documents"] < 20


def test_module_with_a_mixture_of_experts_is_taken_apart_by_name(cli, saved, text, tmp_path):
    out, site = tmp_path / "run", "model.layers.1.mlp"
    flags = small(text=text, layers=None, site=site, activation="gelu", d_hidden=40, out=out)
    cli.succeeds("fit", saved("mixtral"), *flags)
    cli.succeeds("eval", out, "--tokens", 200)
    layer = mxd.load(out / "layers" / site / "mxd-k3-w24-s42")
    assert (layer.config.d_hidden, layer.config.activation) == (40, "gelu")
    assert read_json(out / "eval" / "held-out.json")["layers"][0]["site"] == site


def test_layers_of_two_sites_can_be_put_in_place_at_once(cli, saved, text, tmp_path):
    out = tmp_path / "run"
    flags = small(text=text, layers="0,2", arch="mxd,transcoder", out=out)
    cli.succeeds("fit", saved("gpt2"), *flags)
    alone = cli.succeeds("eval", out, "--tokens", 300)
    assert "at once" not in alone.out
    result = cli.succeeds("eval", out, "--tokens", 300, "--together")
    document = read_json(out / "eval" / "held-out.json")
    sites = ["transformer.h.0.mlp", "transformer.h.2.mlp"]
    assert [entry["site"] for entry in document["sites"]] == sites
    assert len(document["layers"]) == 4
    for entry in document["together"]:
        assert entry["sites"] == sites
        assert f"{entry['name']} at 2 sites at once" in result.out.replace("\n", " ")
    assert len(document["together"]) == 2


def test_excluded_tokens_are_not_trained_on(cli, saved, text, tmp_path):
    out = tmp_path / "run"
    cli.succeeds("fit", saved("gpt2"), *small(text=text, exclude_from_training="bos", out=out))
    folder = out / "layers" / "transformer.h.1.mlp" / "mxd-k3-w24-s42"
    assert mxd.load(folder).provenance.excluded_token_ids == (0,)
    cli.succeeds("eval", out, "--tokens", 300)


def test_training_may_stop_with_the_text(cli, saved, text, tmp_path, caplog):
    weights = {}
    for what in ("repeat", "stop"):
        out = tmp_path / what
        cli.succeeds(
            "fit", saved("gpt2"), *small(text=text, tokens=4096, on_exhausted=what, out=out)
        )
        weights[what] = load_file(next(out.glob("layers/*/*/model.safetensors")))
    stopped, repeated = (read_json(tmp_path / what / "run.json") for what in ("stop", "repeat"))
    assert stopped["data"]["epochs"] == 1
    assert stopped["data"]["tokens_trained"] < 4096 <= repeated["data"]["tokens_trained"]
    assert repeated["data"]["epochs"] > 1
    assert "epoch 2 begins" in caplog.text
    last = (tmp_path / "stop" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["tokens"] == stopped["data"]["tokens_trained"]


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_run_of_another_precision_fits_its_model(cli, saved, text, tmp_path, dtype):
    out = tmp_path / "run"
    cli.succeeds("fit", saved("gpt2"), *small(text=text, dtype=dtype, tokens=128, out=out))
    assert cli.succeeds("eval", out, "--tokens", 200).err == ""
