"""The flags that say where the language model goes: the same layers and figures come of it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli._parts import read_json, small

from mxd.errors import UserError

pytest.importorskip("accelerate")
ON_DISK = {
    "lm_head": "cpu", "transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.drop": "cpu",
    "transformer.h.0": "cpu", "transformer.h.1": "disk", "transformer.h.2": "cpu",
    "transformer.ln_f": "cpu",
}  # fmt: skip


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A device map that has one block of the tiny GPT-2 on the disk."""
    (tmp_path / "map.json").write_text(json.dumps(ON_DISK))
    return tmp_path / "map.json"


def test_a_run_on_a_spread_model_is_the_same_run(cli, saved, text, places, trained):
    flags = small(text=text, arch="mxd,transcoder", out="spread", device_map=places)
    cli.succeeds("fit", saved("gpt2"), *flags)
    files = sorted(trained.glob("layers/*/*/model.safetensors"))
    assert len(files) == 2
    for file in files:
        assert (Path("spread") / file.relative_to(trained)).read_bytes() == file.read_bytes()
    assert read_json(Path("spread/run.json"))["placement"] == {"device_map": ON_DISK}
    assert "placement" not in read_json(trained / "run.json")
    figures = []
    for map_flags in ([], ["--device-map", places]):
        cli.succeeds("eval", "spread", "--tokens", "320", "--json", "eval.json", *map_flags)
        document = read_json(Path("eval.json"))
        figures.append([document[key] for key in document if key != "command"])
    assert figures[0] == figures[1]
    cli.succeeds("top", "spread", "--tokens", "320", "--device-map", places)
    cli.succeeds("doctor", "spread", "--anew", "--tokens", "320", "--device-map", places)


def test_a_harvest_from_a_spread_model_is_the_same_cache(cli, saved, text, places):
    for out, more in (("whole", []), ("spread", ["--device-map", str(places)])):
        flags = [
            "--text",
            text,
            "--layers",
            "1",
            "--tokens",
            "256",
            "--context",
            "16",
            "--out",
            out,
        ]
        cli.succeeds("harvest", saved("gpt2"), *flags, *more)
    manifests = [read_json(Path(out) / "manifest.json") for out in ("whole", "spread")]
    for manifest in manifests:
        del manifest["command"]
    assert manifests[0] == manifests[1]
    assert "load_in" not in manifests[0]["base_model"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--device-map", "everywhere"], "expected one of auto, balanced"),
        (["--load-in", "2bit"], "'8bit', '4bit'"),
        (["--tensor-parallel"], "torchrun"),
        (["--compile-model", "--device-map", "map.json"], "spread or quantised to compile"),
    ],
)
def test_what_cannot_be_is_refused(cli, saved, text, places, flags, named):
    cli.refuses(["fit", saved("gpt2"), *small(text=text, out="run"), *flags], named)


def test_a_damaged_map_is_refused(cli, saved, text, places):
    places.write_text('{"lm_head": [0]}')
    flags = small(text=text, out="run", device_map=places)
    cli.refuses(["fit", saved("gpt2"), *flags], "[0] for module 'lm_head'", "a device")
    places.write_text('{"transformer.h.1": "disk"}')
    cli.refuses(["fit", saved("gpt2"), *flags], saved("gpt2"), "cannot be loaded")


def test_missing_bitsandbytes_is_named(cli, saved, text, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name)
    )
    flags = small(text=text, out="run", load_in="8bit")
    cli.refuses(["fit", saved("gpt2"), *flags], "needs bitsandbytes", "mixture-of-decoders[big]")


def test_a_run_goes_on_in_the_bits_that_it_began_in(cli, saved, text, monkeypatch):
    flags = small(text=text, out="run", checkpoint_every=5)
    cli.succeeds("fit", saved("gpt2"), *flags)
    record = Path("run/run.json")
    record.write_text(record.read_text().replace('"complete": true', '"complete": false'))
    from mxd.cli import _train

    load = _train.load_model
    monkeypatch.setattr(_train, "load_model", lambda *a, **k: load(*a, **{**k, "load_in": None}))
    resumed = ["fit", saved("gpt2"), *flags, "--resume", "--load-in", "8bit"]
    cli.refuses(resumed, "load_in: None there, '8bit' here", "start a new run")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], "4bit"), (["--load-in", "none"], None), (["--load-in", "8bit"], "8bit")],
)
def test_a_run_s_model_is_loaded_in_its_bits(cli, trained, monkeypatch, flags, expected):
    asked: list[dict[str, Any]] = []

    def load(*_names: Any, **how: Any) -> None:
        asked.append(how)
        raise UserError("seen")

    from mxd.cli import _run

    monkeypatch.setattr(_run, "load_model", load)
    opened = _run.open_run(trained)
    object.__setattr__(opened.recipe, "load_in", "4bit")
    monkeypatch.setattr(_run, "open_run", lambda _folder: opened)
    cli.refuses(["eval", trained, *flags], "seen")
    assert asked[0]["load_in"] == expected


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_layers_are_trained_on_a_quantised_model(cli, saved, text, bits):
    pytest.importorskip("bitsandbytes")
    flags = small(text=text, out="run", load_in=bits, start="base_mlp", d_hidden=None)
    cli.succeeds("fit", saved("llama"), *flags)
    assert read_json(Path("run/run.json"))["recipe"]["load_in"] == bits
    cli.succeeds("eval", "run", "--tokens", "320", "--json", "eval.json")
    cli.succeeds("doctor", "run", "--anew", "--tokens", "320")
