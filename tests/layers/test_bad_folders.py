"""A folder that is no good is a UserError that names the file and what was expected of it."""

import json
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.layers._examples import described, filled

import mxd.layers
from mxd.errors import UserError
from mxd.layers import ARCHITECTURES

CONFIG, WEIGHTS, STATISTICS = "config.json", "model.safetensors", "statistics.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "layer"
    described(filled("mxd", dtype=torch.float32)).save_pretrained(path)
    return path


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        mxd.layers.load(folder)
    assert str(folder) in str(caught.value)


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps({**config, **changes}), encoding="utf-8")


def change_tensors(
    folder: Path, change: Callable[[dict[str, Any]], Any], name: str = WEIGHTS
) -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)


def test_folder_that_is_missing(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "neither an existing folder nor a hub repository")


def test_file_in_place_of_the_folder(folder: Path) -> None:
    refused(folder / WEIGHTS, "is a file, expected a layer's folder or a hub id")


def test_folder_without_config(folder: Path) -> None:
    (folder / CONFIG).unlink()
    refused(folder, "is no layer folder: it has no config.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"not json", b"\xff\xfe\x00", b'{"k": 1' + b"0" * 5000 + b"}", b"[" * 100_000],
    ids=["empty", "cut", "text", "binary", "endless-number", "deep"],
)
def test_config_that_is_not_json(folder: Path, content: bytes) -> None:
    (folder / CONFIG).write_bytes(content)
    refused(folder, r"config.json is damaged: expected JSON")


@pytest.mark.parametrize("content", ["[]", '"mxd"', "3", "null"])
def test_config_that_is_no_object(folder: Path, content: str) -> None:
    (folder / CONFIG).write_text(content)
    refused(folder, "config.json is damaged: expected a JSON object, got")


def test_config_of_an_absurd_size(folder: Path) -> None:
    (folder / CONFIG).write_bytes(b" " * (5 << 20))
    refused(folder, "config.json has 5242880 bytes, expected at most")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "gguf"}, "has format 'gguf', expected 'mxd-layer'"),
        ({"format": None}, "has format None, expected 'mxd-layer'"),
        ({"format_version": 2}, "has format version 2, expected 1; update mxd"),
        ({"format_version": "1"}, "has format version '1', expected 1"),
        ({"architecture": "mdx"}, "got architecture 'mdx', expected one of "),
        ({"architecture": None}, "names no architecture"),
        ({"architecture": ["mxd"]}, "names no architecture"),
        ({"architecture": "transcoder"}, "does not describe a transcoder layer: .*n_latents"),
        ({"k": 10}, "got k=10 with 9 units"),
        ({"k": 0}, "got k=0, expected a whole number of at least 1"),
        ({"k": 3.0}, "got k=3.0, expected int"),
        ({"k": True}, "got k=True, expected int"),
        ({"k": None}, "got k=None, expected int"),
        ({"d_in": -5}, "got d_in=-5, expected a whole number of at least 1"),
        ({"d_in": "5"}, "got d_in='5', expected int"),
        ({"d_in": [5]}, r"got d_in=\[5\], expected int"),
        ({"n_experts": 10**30}, "got n_experts=1000.*, expected less than"),
        ({"d_hidden": -(10**30)}, "got d_hidden=-1000.*, expected less than"),
        ({"activation": "gelo"}, "got activation 'gelo', expected one of"),
        ({"activation": 3}, "got activation=3, expected str"),
        ({"activation": "xielu"}, "expected one without parameters"),
        ({"glu": "yes"}, "got glu='yes', expected bool"),
        ({"sparsity": "l3"}, "got sparsity 'l3', expected one of topk, l1"),
        ({"shared_experts": 3}, "got shared_experts=3 with k=3"),
        ({"shared_experts": -1}, "got shared_experts=-1"),
        ({"excluded_token_ids": "50256"}, "has excluded_token_ids '50256', expected a list"),
        ({"excluded_token_ids": [1.5]}, r"has excluded_token_ids \[1.5\], expected a list"),
        ({"base_model": 7}, "has base_model 7, expected str"),
        ({"base_revision": []}, r"has base_revision \[\], expected str"),
        ({"base_fingerprint": 7}, "has base_fingerprint 7, expected str"),
        ({"student": {}}, "has student {}, expected str"),
        ({"seed": "42"}, "has seed '42', expected int"),
        ({"training": [1]}, r"has training \[1\], expected dict"),
        ({"evaluation": "good"}, "has evaluation 'good', expected dict"),
    ],
    ids=lambda value: json.dumps(value)[:30] if isinstance(value, dict) else "",
)
def test_config_with_a_wrong_value(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_config(folder, **changes)
    refused(folder, message)
    refused(folder, CONFIG)


def test_unknown_architecture_lists_the_known_ones(folder: Path) -> None:
    change_config(folder, architecture="mdx")
    refused(folder, ", ".join(ARCHITECTURES))


def test_skip_that_contradicts_the_architecture(tmp_path: Path) -> None:
    filled("skip-transcoder").save_pretrained(tmp_path)
    change_config(tmp_path, skip=False)
    refused(tmp_path, "says 'skip_transcoder', its fields describe 'transcoder'")


def test_unit_norm_that_the_architecture_cannot_have(tmp_path: Path) -> None:
    filled("skip-transcoder").save_pretrained(tmp_path)
    change_config(tmp_path, unit_norm=True)
    refused(tmp_path, "got unit_norm for a skip transcoder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("modulators"), r"missing tensors \['modulators'\]"),
        (lambda t: t.update(more=torch.ones(2)), r"unexpected \['more'\]"),
        (lambda t: t.update(bias=torch.ones(5)), r"bias has shape \(5,\), expected \(4,\)"),
        (lambda t: t.update(bias=torch.ones(4, 1)), r"bias has shape \(4, 1\), expected \(4,\)"),
        (lambda t: t.update(bias=t["bias"].double()), "has tensors of .*float32.*float64"),
        (lambda t: t.update({n: v.long() for n, v in t.items()}), "has tensors of .*int64"),
        (lambda t: t.update({n: v.to(torch.complex64) for n, v in t.items()}), "complex64"),
        (lambda t: t.update({n: v.to(torch.float8_e4m3fn) for n, v in t.items()}), "float8"),
        (lambda t: t.clear(), "missing tensors"),
    ],
    ids=["missing", "extra", "longer", "deeper", "mixed", "integers", "complex", "float8", "none"],
)
def test_weights_that_do_not_fit(folder: Path, change: Any, message: str) -> None:
    change_tensors(folder, change)
    refused(folder, message)
    refused(folder, WEIGHTS)


@pytest.mark.parametrize("name", [WEIGHTS, STATISTICS])
@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_safetensors_that_are_cut(folder: Path, name: str, keep: int) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:keep])
    refused(folder, f"{name} is damaged or truncated: expected safetensors")


@pytest.mark.parametrize("name", [WEIGHTS, STATISTICS])
@pytest.mark.parametrize("how", ["zip", "legacy", "plain"])
def test_pickle_under_another_name_is_never_read(folder: Path, name: str, how: str) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (folder / "sprung",))

    if how == "plain":
        (folder / name).write_bytes(pickle.dumps(Trap()))
    else:
        torch.save(Trap(), folder / name, _use_new_zipfile_serialization=how == "zip")
    refused(folder, f"{name} is a pickle, which is never read; expected safetensors")
    assert not (folder / "sprung").exists()


def test_folder_with_a_pickle_alone(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    refused(folder, "has no model.safetensors; pytorch_model.bin is a pickle, which is never read")


def test_folder_without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    refused(folder, "has no model.safetensors; save the layer as safetensors")


@pytest.mark.parametrize("width", [10**6, 10**9, (1 << 31) - 1])
def test_giant_widths_take_no_memory_before_the_file_proves_them(folder: Path, width: int) -> None:
    # 10⁶ × 10⁶ floats are 4 TB; the largest widths overflow even the count of bytes.
    change_config(folder, d_in=width, d_out=width, d_hidden=width, n_experts=width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, "expected|that can be built")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(mean_output=torch.ones(5)), r"mean_output has shape \(5,\), expected"),
        (lambda t: t.update({n: v.long() for n, v in t.items()}), "has tensors of .*int64"),
    ],
    ids=["longer", "integers"],
)
def test_statistics_that_do_not_fit(folder: Path, change: Any, message: str) -> None:
    change_tensors(folder, change, STATISTICS)
    refused(folder, message)
