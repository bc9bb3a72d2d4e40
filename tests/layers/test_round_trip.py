"""A layer's folder gives back the layer, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.layers._examples import KINDS, described, filled, fresh, inputs

import mxd.layers
from mxd.errors import UserError
from mxd.layers import DenseMLP, Layer, MxD, Provenance, SparseLayer, Transcoder

each_kind = pytest.mark.parametrize("kind", KINDS)
FILES = {"config.json", "model.safetensors", "README.md"}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@each_kind
def test_folder_gives_the_layer_back(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    layer = described(filled(kind, dtype=dtype)).eval()
    layer.save_pretrained(tmp_path)
    loaded = mxd.layers.load(tmp_path)
    assert type(loaded) is type(layer)
    assert loaded.config == layer.config
    assert loaded.provenance == layer.provenance
    assert set(loaded.statistics) == set(layer.statistics)
    for name, mean in layer.statistics.items():
        assert torch.equal(loaded.statistics[name], mean)
    for (name, mine), other in zip(layer.named_parameters(), loaded.parameters(), strict=True):
        assert mine.dtype == other.dtype == dtype, name
        assert torch.equal(mine, other), name
    x = inputs(layer, 6)
    assert torch.equal(loaded(x), layer(x))


@each_kind
def test_loaded_layer_can_be_trained_and_saved_again(kind: str, tmp_path: Path) -> None:
    described(filled(kind)).save_pretrained(tmp_path / "a")
    loaded = mxd.layers.load(str(tmp_path / "a"))
    assert not loaded.training
    loaded(inputs(loaded, 8)).square().sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())
    loaded.save_pretrained(str(tmp_path / "b"))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    "options",
    [{"sparsity": "l1"}, {"random_k": True}, {"unit_norm": True}, {"shared_experts": 1}],
    ids=lambda options: next(iter(options)),
)
def test_options_survive(options: dict[str, Any], tmp_path: Path) -> None:
    layer = fresh("mxd", **options)
    layer.save_pretrained(tmp_path)
    assert mxd.layers.load(tmp_path).config == layer.config


def test_folder_holds_its_files_and_no_other(tmp_path: Path) -> None:
    layer = fresh("mxd")
    layer.save_pretrained(tmp_path / "plain")
    assert {path.name for path in (tmp_path / "plain").iterdir()} == FILES
    described(layer).save_pretrained(tmp_path / "full")
    with_means = FILES | {"statistics.safetensors"}
    assert {path.name for path in (tmp_path / "full").iterdir()} == with_means
    layer.statistics = {}
    layer.save_pretrained(tmp_path / "full")  # the old means are not this layer's
    assert {path.name for path in (tmp_path / "full").iterdir()} == FILES
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in (tmp_path / "full").iterdir())


def test_saving_again_replaces_what_was_there(tmp_path: Path) -> None:
    fresh("transcoder").save_pretrained(tmp_path)
    layer = filled("mxd-glu", dtype=torch.float32)
    layer.save_pretrained(tmp_path)
    loaded = mxd.layers.load(tmp_path)
    assert loaded.config == layer.config
    assert "transcoder" not in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "mxd-glu",
            {
                "architecture": "mxd", "d_in": 5, "d_out": 4, "d_hidden": 7, "n_experts": 9, "k": 3,
                "activation": "silu", "glu": True, "sparsity": "topk", "shared_experts": 0,
            },
        ),
        ("transcoder", {"architecture": "transcoder", "n_latents": 9, "skip": False}),
        ("skip-transcoder", {"architecture": "skip_transcoder", "n_latents": 9, "skip": True}),
        ("topk-autoencoder", {"architecture": "topk_autoencoder", "d_in": 4, "d_out": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_config_json_has_the_keys_of_the_format(
    kind: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    described(fresh(kind)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    expected = {
        **expected,
        "format": "mxd-layer",
        "format_version": 1,
        "base_model": "openai-community/gpt2",
        "site": "transformer.h.8.mlp",
        "excluded_token_ids": [50256, 3],
    }
    assert {key: config[key] for key in expected} == expected
    assert config["base_revision"].startswith("607a30d")
    assert config["training"]["tokens"] == 480_000_000


def test_config_json_may_omit_what_has_a_default(tmp_path: Path) -> None:
    layer = filled("mxd", dtype=torch.float32)
    layer.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    needed = (
        "format", "format_version", "architecture", "d_in", "d_out", "d_hidden", "n_experts", "k",
    )  # fmt: skip
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({key: config[key] for key in needed} | {"later": 1}))
    loaded = mxd.layers.load(tmp_path)
    assert loaded.config == layer.config
    assert loaded.provenance == Provenance()


def test_from_pretrained_of_the_class_itself_and_its_parents(tmp_path: Path) -> None:
    filled("skip-transcoder").save_pretrained(tmp_path)
    for cls in (Transcoder, SparseLayer, Layer):
        loaded = cls.from_pretrained(tmp_path)
        assert isinstance(loaded, Transcoder)
        assert loaded.skip is not None


@pytest.mark.parametrize("cls", [MxD, DenseMLP])
def test_from_pretrained_of_another_class_says_what_the_folder_holds(
    cls: type[Layer], tmp_path: Path
) -> None:
    filled("skip-transcoder").save_pretrained(tmp_path)
    message = f"holds a skip_transcoder layer, expected a {cls.__name__}; .* mxd.load"
    with pytest.raises(UserError, match=message):
        cls.from_pretrained(tmp_path)


def test_from_mlp_survives_the_folder(tmp_path: Path) -> None:
    from tests.layers.test_from_mlp import weights

    layer = MxD.from_mlp(weights(biases=True, glu=True))
    layer.save_pretrained(tmp_path)
    x = torch.randn(5, 6, dtype=torch.float64)
    assert torch.equal(mxd.layers.load(tmp_path)(x), layer(x))


def test_saving_does_not_touch_the_layer(tmp_path: Path) -> None:
    layer = described(filled("mxd")).train()
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    layer.save_pretrained(tmp_path)
    assert layer.training
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])
