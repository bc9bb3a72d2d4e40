"""Whatever happens to the bytes of a folder, it loads or it is a UserError."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.layers._examples import described, filled, inputs

import mxd.layers
from mxd.errors import UserError
from mxd.layers import Layer

FILES = ["config.json", "model.safetensors", "statistics.safetensors"]
ROUNDS = 150


def load_or_none(folder: Path) -> Layer | None:
    """The layer, or None where a UserError that names the folder refuses it."""
    try:
        return mxd.layers.load(folder)
    except UserError as error:
        if str(folder) not in str(error):
            raise
        return None


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("folders")
    for kind in ("mxd-glu", "skip-transcoder", "dense-mlp"):
        described(filled(kind, dtype=torch.float32)).save_pretrained(root / kind)
    return sorted(root.iterdir())


def damaged(content: bytes, dice: random.Random) -> bytes:
    """The same bytes, flipped, cut, extended or overwritten somewhere, headers most of all."""
    content = bytearray(content)
    kind = dice.choice(["flip", "flip", "digit", "cut", "extend", "remove", "zero"])
    where = dice.randrange(min(len(content), dice.choice([9, 700, len(content)])))
    if kind == "flip":
        for _ in range(dice.choice([1, 1, 3, 20])):
            at = min(len(content) - 1, where + dice.randrange(20))
            content[at] ^= 1 << dice.randrange(8)
    elif kind == "digit":
        digits = [i for i, byte in enumerate(content[:900]) if chr(byte).isdigit()]
        if digits:
            content[dice.choice(digits)] = ord(dice.choice("0123456789-e."))
    elif kind == "cut":
        del content[where:]
    elif kind == "extend":
        content += bytes(dice.randrange(256) for _ in range(dice.randrange(1, 40)))
    elif kind == "remove":
        del content[where : where + dice.randrange(1, 30)]
    else:
        content[where : where + 8] = dice.choice([b"\0" * 8, b"\xff" * 8])
    return bytes(content)


def outcomes(folders: list[Path], target: Path, name: str) -> Iterator[Layer | None]:
    """What loading gives, over many damages of one file; only a UserError is expected of it."""
    dice = random.Random(name)
    for i in range(ROUNDS):
        source = folders[i % len(folders)]
        shutil.copytree(source, target, dirs_exist_ok=True)
        (target / name).write_bytes(damaged((source / name).read_bytes(), dice))
        yield load_or_none(target)


@pytest.mark.parametrize("name", FILES)
def test_damaged_folder_loads_or_is_refused(name: str, folders: list[Path], tmp_path: Path) -> None:
    loaded = [layer for layer in outcomes(folders, tmp_path / "layer", name) if layer is not None]
    assert 0 < len(loaded) < ROUNDS  # some damage is harmless, some is not
    for layer in loaded:
        assert layer(inputs(layer, 2)).shape == (2, layer.config.d_out)
        layer.save_pretrained(tmp_path / "again")


def test_swapped_values_of_the_config_load_or_are_refused(
    folders: list[Path], tmp_path: Path
) -> None:
    dice = random.Random(0)
    pool = [
        None,
        True,
        -1,
        0,
        2,
        2**40,
        1.5,
        float("nan"),
        "",
        "mxd",
        "\ud800",
        [],
        [0],
        {},
        {"a": 1},
    ]
    for i in range(ROUNDS):
        source = folders[i % len(folders)]
        shutil.copytree(source, tmp_path / "layer", dirs_exist_ok=True)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        for _ in range(dice.choice([1, 1, 2])):
            config[dice.choice(list(config))] = dice.choice(pool)
        (tmp_path / "layer" / "config.json").write_text(json.dumps(config), encoding="utf-8")
        layer = load_or_none(tmp_path / "layer")
        if layer is not None:
            layer.save_pretrained(tmp_path / "again")
