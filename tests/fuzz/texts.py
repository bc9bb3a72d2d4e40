"""Texts, caches and settings that people pass around."""

import gzip
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.data._caches import SITES, cached
from tests.fuzz.campaign import Target
from tests.fuzz.spoiling import spoiled

from mxd.cli._recipe import recipe_from_flags
from mxd.cli.fit import fit_layers
from mxd.data import CachedStream, open_documents, read_manifest, split_documents
from mxd.errors import UserError
from mxd.evaluation import load_task
from mxd.evaluation.judging.cache import VerdictCache
from mxd.training import read_ablations
from mxd.training.stream import cached_text

_ANSWER = {
    "key": "k" * 64, "judge": "m", "concept": 0.5, "fluency": 1.0, "calls": 1, "prompt_tokens": 7,
    "completion_tokens": 3,
}  # fmt: skip
_RECORDS = [{"text": f"w{i} some words", "doc": f"d{i // 2}"} for i in range(8)]


def cache_targets(root: Path, mark: Path) -> list[Target]:
    """A cache of activations, read whole; also with checksums that fit the damage."""
    folder = root / "cache"
    cached(folder, text={"source": "numbers", "holdout": 0.1})
    shards = ("shard-00000.safetensors", "shard-00004.safetensors")
    whole = spoiled(folder, ("manifest.json", *shards), mark)
    return [
        Target("cache", folder, whole, load_cache, weight=2),
        Target("cache, resealed", folder, spoiled(folder, shards, mark), load_cache, reseal=reseal),
    ]


def load_cache(folder: Path) -> None:
    """Read a cache from its manifest to the last row."""
    manifest = read_manifest(folder)
    cached_text(folder, manifest)
    rows = 0
    for batch in CachedStream(
        folder=folder,
        manifest=manifest,
        sites=[site.name for site in SITES],
        batch_tokens=8,
        buffer_tokens=64,
        on_exhausted="stop",
        max_tokens=400,
    ):
        rows += len(batch.token_ids)
    assert rows > 0


def reseal(folder: Path) -> None:
    """Make size and checksum of the shards in the manifest those of the files."""
    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    for shard in raw["shards"]:
        content = (folder / shard["file"]).read_bytes()
        shard |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(raw))


def text_targets(root: Path, mark: Path) -> list[Target]:
    """Files of text in every format, a task for probes, and kept answers of a judge."""
    sentence = {"tokens": ["a", "b"], "tags": ["x", "y"]}
    contents: dict[str, tuple[list[Any], Callable[[Path], Any]]] = {
        "docs.jsonl": (_RECORDS, load_text),
        "ids.jsonl": ([{"input_ids": [i, i + 1, 5], "doc": f"d{i}"} for i in range(8)], load_text),
        "task.jsonl": ([{**sentence, "split": s} for s in ("train", "test") * 20], load_task),
        "answers.jsonl": ([_ANSWER], VerdictCache),
    }
    targets = []
    for name, (rows, load) in contents.items():
        folder = root / name.removesuffix(".jsonl")
        folder.mkdir()
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = spoiled(folder, (name,), mark)
        targets.append(Target(f"text {name}", folder, files, partial(_load, name, load)))
    return [*targets, *_packed_targets(root, mark)]


def _load(name: str, load: Callable[[Path], Any], folder: Path) -> Any:
    return load(folder / name)


def _packed_targets(root: Path, mark: Path) -> list[Target]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    targets = []
    for name in ("docs.jsonl.gz", "docs.parquet", "docs.txt"):
        folder = root / name.replace(".", "-")
        folder.mkdir()
        if name.endswith(".gz"):
            lines = "".join(json.dumps(row) + "\n" for row in _RECORDS).encode()
            (folder / name).write_bytes(gzip.compress(lines))
        elif name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(_RECORDS), folder / name)
        else:
            (folder / name).write_text("some words\n" * 20)
        files = spoiled(folder, (name,), mark)
        load = partial(_load, name, load_text)
        targets.append(Target(f"text {name}", folder, files, load, weight=0.3))
    return targets


def load_text(path: Path) -> None:
    """Read a file of text to its end, and both sides of its split."""
    list(open_documents(path))
    for part in split_documents(open_documents(path), holdout=0.5, seed=1):
        with suppress(UserError):  # one side may be empty
            list(part)


def yaml_targets(root: Path, mark: Path) -> list[Target]:
    """Files that people pass around: ablations and flags."""
    folder = root / "yaml"
    folder.mkdir()
    ablations = {
        "base": {"architecture": "mxd", "k": 4, "seeds": [1, 2]},
        "ablations": [
            {"name": "relu", "activation": "relu"},
            {"name": "few", "width": 12, "random_k": True, "start": "base_mlp"},
        ],
    }
    flags = {
        "layers": [1], "arch": ["mxd", "transcoder"], "k": [3], "text": "docs.jsonl", "lr": [1e-3],
        "tokens": "2e6", "width": 24, "seed": 7, "holdout": 0.2, "overwrite": True, "out": "run",
        "batch-tokens": 64, "loss": "normalized_mse", "unit-norm": False, "precision": "float32",
    }  # fmt: skip
    (folder / "ablations.yaml").write_text(json.dumps(ablations))
    (folder / "flags.yaml").write_text(json.dumps(flags))
    return [
        Target(
            "ablations",
            folder,
            spoiled(folder, ("ablations.yaml",), mark),
            lambda copy: read_ablations(copy / "ablations.yaml"),
            lambda found, out: found.students(k=4, seeds=(0,)) and None,
        ),
        Target(
            "flags",
            folder,
            spoiled(folder, ("flags.yaml",), mark),
            lambda copy: fit_layers.make_context(
                "fit", ["model", "--config", str(copy / "flags.yaml")]
            ),
            lambda context, out: recipe_from_flags(context.params) and None,
        ),
    ]
