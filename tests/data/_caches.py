"""Small caches of activations that say which token they belong to."""

import json
from pathlib import Path
from typing import Any

from tests.data.test_stream import LENGTH, numbered, tagging

from mxd.data import CachedSite, Manifest, fill_cache

SITES = (
    CachedSite(name="a", d_in=2, d_out=2, fingerprint="0" * 16),
    CachedSite(name="b", d_in=1, d_out=4, fingerprint="1" * 16),
)


def asked(**changes: Any) -> Manifest:
    """A harvest of `tagging` over contexts of eight: two contexts a pass, three passes a shard."""
    fields: dict[str, Any] = {
        "base_model": {"name": "tagging", "revision": None},
        "model_dtype": "float32",
        "device": "cpu",
        "sites": SITES,
        "dtype": "float32",
        "contexts": {"length": LENGTH, "separator": "eos", "begin_with_bos": True},
        "contexts_per_pass": 2,
        "text": {"source": "numbers"},
        "tokenizer_fingerprint": "2" * 64,
        "tokens_wanted": 10_000,
        "max_size": None,
        "passes_per_shard": 3,
        "versions": {"mxd": "0"},
        "command": ("mxd", "harvest"),
    }
    return Manifest(**{**fields, **changes})


def cached(folder: Path, contexts: int = 25, **changes: Any) -> Manifest:
    """A finished cache: 25 contexts are 200 tokens in five shards, the last of one context."""
    return fill_cache(folder, asked(**changes), tagging, numbered(contexts))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def flip_byte(path: Path, at: int = -3) -> None:
    """Change a byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 8
    path.write_bytes(content)


def edit_manifest(folder: Path, change: Any, **layout: Any) -> None:
    """Change the JSON of a manifest in place."""
    path = folder / "manifest.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_text(json.dumps(raw, **layout), encoding="utf-8")
