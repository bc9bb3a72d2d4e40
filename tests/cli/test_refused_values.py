import pytest
from tests.cli._parts import as_flags, small

from mxd.layers import ARCHITECTURES

_FIT_VALUES = [
    ({"k": 25}, ["k=25", "24 units", "lower k"]),
    ({"k": 0}, ["k=0", "at least 1"]),
    ({"k": -1}, ["k=-1", "at least 1"]),
    ({"k": "a,b"}, ["--k", "'a'", "list of whole numbers", "mxd fit --help"]),
    ({"k": "3,"}, ["--k", "list of whole numbers"]),
    ({"layers": "one"}, ["--layers", "'one'", "list of whole numbers"]),
    ({"lr": "fast"}, ["--lr", "'fast'", "list of numbers"]),
    ({"lr": 0}, ["learning rate 0.0", "for example 1e-4"]),
    ({"lr": "1e-3,nan"}, ["learning rate nan"]),
    ({"width": 0}, ["--width", "'0'", "whole number of at least 1"]),
    ({"tokens": "many"}, ["--tokens", "'many'", "such as 2e6"]),
    ({"tokens": 1.5}, ["--tokens", "'1.5'", "whole number"]),
    ({"tokens": "inf"}, ["--tokens", "'inf'", "whole number"]),
    ({"expansion": -1, "width": None}, ["expansion=-1.0", "more than 0"]),
    ({"expansion": "inf", "width": None}, ["inf", "change the expansion"]),
    ({"expansion": "big"}, ["--expansion", "'big'", "float"]),
    ({"holdout": 1.5}, ["holdout=1.5", "above 0 and below 1"]),
    ({"context": 1}, ["length=1", "2 or more"]),
    ({"seed": -1}, ["seed=-1", "expected 0 to"]),
    ({"seed": 10**30}, [f"seed={10**30}", "expected 0 to"]),
    ({"shared_experts": 3}, ["shared_experts=3", "0 to k - 1"]),
    ({"clip_norm": -1}, ["clip_norm=-1.0", "more than 0"]),
    ({"arch": "mxd,moe"}, ["'moe'", *ARCHITECTURES]),
    ({"activation": "gleu"}, ["'gleu'", "gelu", "silu"]),
    ({"loss": "mse"}, ["'mse'", "normalized_mse", "reference"]),
    ({"recipe": "large"}, ["'large'", "auto", "paper", "small"]),
    ({"precision": "fp8"}, ["'fp8'", "auto", "float32", "bf16"]),
    ({"dtype": "int8"}, ["'int8'", "float32", "bfloat16", "float16", "auto"]),
    ({"trackers": "mlflow"}, ["'mlflow'", "wandb", "trackio"]),
    ({"separator": "pad"}, ["'pad'", "eos", "bos", "none"]),
    ({"on_exhausted": "loop"}, ["'loop'", "repeat", "stop"]),
    ({"exclude_from_training": "w999"}, ["'w999'", "bos, eos, pad, unk, all", "<s>"]),
    ({"device": "cuda:7"}, ["'cuda:7'", "expected one of cpu"]),
    ({"device": "nonsense"}, ["'nonsense'", "expected one of cpu"]),
    ({"device": "meta"}, ["'meta'", "expected one that holds numbers"]),
    ({"eraser": 1}, ["--eraser", "mxd fit --help"]),
    ({"text": None}, ["no text", "--text"]),
    ({"text": ""}, ["no text", "--text"]),
    ({"batch_tokens": 10**6}, ["1000000", "one batch", "give more text or smaller batches"]),
]


def _name(case: dict[str, object]) -> str:
    return ",".join(f"{name}={value}" for name, value in case.items())


@pytest.mark.parametrize(
    ("changes", "named"), _FIT_VALUES, ids=[_name(changes) for changes, _ in _FIT_VALUES]
)
def test_fit_refuses(cli, saved, text, changes, named):
    cli.refuses(["fit", saved("gpt2"), *small(**{"text": text, **changes})], *named)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_tracker_that_is_not_installed_says_how_to_get_it(cli, saved, text, monkeypatch, tracker):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = ["fit", saved("gpt2"), *small(text=text, trackers=tracker, out="a/b/run")]
    cli.refuses(arguments, tracker, "not installed", "pip install")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fit"], ["MODEL", "mxd fit --help"]),
        (["fit", "a", "b"], ["(b)", "mxd fit --help"]),
        (["eval"], ["RUN", "mxd eval --help"]),
        (["eval", "x", "--tokens", "0"], ["--tokens", "'0'"]),
        (["eval", "x", "--batch-contexts", "-2"], ["--batch-contexts", "'-2'"]),
        (["eval", "x", "--device", "cuda:9"], ["'cuda:9'", "expected one of cpu"]),
        (["demo", "--arch", "bert"], ["'bert'", "gpt2", "llama"]),
        (["demo", "--tokens", "few"], ["'few'", "whole number"]),
        (["demo", "--seed", "x"], ["'x'", "integer"]),
        (["demo", "--seed", "-3"], ["seed=-3", "expected 0 to"]),
        (["fite"], ["'fite'", "mxd --help"]),
        (["--fast"], ["--fast", "mxd --help"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_command_line_is_refused(cli, arguments, named):
    cli.refuses(arguments, *named)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, ["flags.yaml", "does not exist"]),
        (b"k: [1, 2", ["flags.yaml", "not YAML"]),
        (b"\xff\xfe\x00", ["flags.yaml", "not YAML"]),
        (b"just words", ["flags.yaml", "no keys"]),
        (b"kay: 3", ["flags.yaml", "'kay'", "long flags"]),
        (b"k: many", ["--k", "'many'", "whole numbers"]),
        (b"k: {a: 1}", ["--k", "{'a': 1}", "expected one value"]),
        (b"tokens: [1, 2]", ["--tokens", "[1, 2]", "expected one value"]),
        (b"text: [a, b]", ["--text", "['a', 'b']", "expected one value"]),
    ],
    ids=["missing", "syntax", "binary", "scalar", "unknown", "type", "mapping", "list", "table"],
)
def test_config_is_refused(cli, saved, text, tmp_path, content, named):
    path = tmp_path / "flags.yaml"
    if content is not None:
        path.write_bytes(content)
    flags = as_flags({"text": text, "layers": 1, "config": path})
    cli.refuses(["fit", saved("gpt2"), *flags], *named)
