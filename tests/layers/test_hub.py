"""To the hub and back, with the hub played by a folder."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants, hub_mixin
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from tests.layers._examples import described, filled, inputs

import mxd.layers
from mxd.errors import UserError
from mxd.layers import MxD, Transcoder, _remote


class FakeHub:
    """As much of HfApi as pushing needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.created: list[str] = []

    def __call__(self, *_: Any, **__: Any) -> "FakeHub":
        return self

    def create_repo(self, repo_id: str, **_: Any) -> SimpleNamespace:
        self.created.append(repo_id)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
        shutil.copytree(folder_path, self.folder / repo_id)
        return f"https://huggingface.co/{repo_id}/commit/0"

    def download(self, *, repo_id: str, filename: str, **options: Any) -> str:
        self.options = options
        path = self.folder / repo_id / filename
        if not path.is_file():
            raise EntryNotFoundError(f"404: no {filename}")
        return str(path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(hub_mixin, "HfApi", fake)
    monkeypatch.setattr(_remote, "hf_hub_download", fake.download)
    return fake


@pytest.mark.parametrize("kind", ["mxd", "skip-transcoder", "dense-mlp"])
def test_layer_goes_to_the_hub_and_comes_back(kind: str, hub: FakeHub) -> None:
    layer = described(filled(kind)).eval()
    address = layer.push_to_hub("user/repo")
    assert "user/repo" in str(address)
    assert hub.created == ["user/repo"]
    assert {path.name for path in (hub.folder / "user/repo").iterdir()} == {
        "config.json", "model.safetensors", "statistics.safetensors", "README.md",
    }  # fmt: skip
    loaded = type(layer).from_pretrained("user/repo", revision="v1")
    assert hub.options["revision"] == "v1"
    assert loaded.config == layer.config
    assert loaded.provenance == layer.provenance
    x = inputs(layer, 4)
    assert torch.equal(loaded(x), layer(x))
    assert torch.equal(mxd.layers.load("user/repo", revision="v1")(x), layer(x))


def test_save_pretrained_can_push_in_one_go(hub: FakeHub, tmp_path: Path) -> None:
    filled("mxd").save_pretrained(tmp_path / "here", push_to_hub=True, repo_id="user/repo")
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "here" / name).read_bytes() == (
            hub.folder / "user/repo" / name
        ).read_bytes()


def test_repository_without_statistics_loads(hub: FakeHub) -> None:
    filled("transcoder").push_to_hub("user/repo")
    assert Transcoder.from_pretrained("user/repo").statistics == {}


def test_repository_of_another_class_is_refused(hub: FakeHub) -> None:
    filled("transcoder").push_to_hub("user/repo")
    with pytest.raises(UserError, match="holds a transcoder layer, expected a MxD"):
        MxD.from_pretrained("user/repo")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_repository_that_is_no_layer_is_refused(name: str, hub: FakeHub) -> None:
    filled("transcoder").push_to_hub("user/repo")
    (hub.folder / "user/repo" / name).unlink()
    with pytest.raises(UserError, match=f"hub repository user/repo has no {name}, expected an mxd"):
        mxd.layers.load("user/repo")


def test_hub_that_was_not_reached_is_not_taken_for_a_repository_without_a_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(**_: Any) -> str:
        raise LocalEntryNotFoundError("cannot find it in the cache and the hub is out of reach")

    monkeypatch.setattr(_remote, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match=r"no layer at 'user/repo'.*can be reached.*out of reach"):
        mxd.layers.load("user/repo")


def test_offline_hub_is_a_clear_error_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read from the environment at import
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="no layer at 'user/repo': neither an existing folder nor"):
        mxd.layers.load("user/repo")


@pytest.mark.parametrize("source", ["no/such/folder", "/no/such/folder", "no folder"])
def test_neither_a_folder_nor_a_hub_id_is_refused_without_asking_the_hub(source: str) -> None:
    with pytest.raises(UserError, match=f"no layer at '{source}'"):
        mxd.layers.load(source)
