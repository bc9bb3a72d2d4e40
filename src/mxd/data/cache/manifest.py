"""What a cache of activations says of itself: manifest.json, checked when it is read."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mxd._durable_files import replace_text
from mxd._json_files import read_json_object
from mxd.errors import UserError

FORMAT, FORMAT_VERSION = "mxd-activations", 1
MANIFEST = "manifest.json"
DTYPES = {"float32": 4, "bfloat16": 2}
"""Types that a cache stores activations in, and their bytes."""
MAX_PASS_TOKENS = 1 << 22
"""More than any model takes at once; so many rows are read from a cache at a time, at most."""
MAX_SHARDS = 30_000
"""Shards whose entries surely fit in a manifest."""
ENDS = ("tokens", "text", "size")
KEPT = (
    "the shards finished before it stay good: make room on the disk, then give the same command "
    "again to go on after them"
)
"""What to do when a cache cannot be written to."""
_TOKEN_ID_BYTES = 8
_MAX_JSON_BYTES = 8 << 20  # parsed, it may take forty times as much memory
_MAX_COUNT = 1 << 53
_MAX_WIDTH = 1 << 31

_CACHE_FILE = re.compile(
    r"shard-\d{5,}\.safetensors|\.(shard-\d{5,}\.safetensors|manifest\.json)\.new"
)
_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class CachedSite:
    """A site whose activations are stored."""

    name: str
    """Dotted name of the module."""
    d_in: int
    """Width of x."""
    d_out: int
    """Width of y."""
    fingerprint: str
    """Fingerprint of the dense weights there."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of the cache."""

    file: str
    """Its name within the folder."""
    tokens: int
    """Rows of every tensor in it."""
    bytes: int
    """Its size."""
    sha256: str
    """SHA-256 of its content."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json."""

    base_model: dict[str, Any]
    """`name` and `revision` of the language model, each None where unknown."""
    model_dtype: str
    """Type that the model ran in."""
    device: str
    """What it ran on: `cpu`, or an accelerator by its name."""
    sites: tuple[CachedSite, ...]
    """Where the activations come from."""
    dtype: str
    """Type that they are stored in: `bfloat16` or `float32`."""
    contexts: dict[str, Any]
    """How the text was packed: length, separator, begin_with_bos."""
    contexts_per_pass: int
    """Contexts in a pass of the model."""
    text: dict[str, Any]
    """The text and which part of it is held out, as a recipe has it."""
    tokenizer_fingerprint: str
    """SHA-256 of the tokenizer's vocabulary and special tokens."""
    tokens_wanted: int
    """Tokens that were asked for."""
    max_size: int | None
    """Bytes that the shards may take; None for no bound."""
    passes_per_shard: int
    """Passes of the model in a shard; the last may hold fewer."""
    versions: dict[str, Any] = field(default_factory=dict)
    """Versions of packages."""
    command: tuple[str, ...] = ()
    """The command line."""
    complete: bool = False
    """Whether the harvest came to its end."""
    ended_because: str | None = None
    """What ended it: `tokens`, `text` or `size`; None while it is not complete."""
    data_fingerprint: str = ""
    """SHA-256 of all token ids, as little-endian 64-bit integers."""
    shards: tuple[Shard, ...] = ()
    """The files, in the order of the harvest."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def tokens(self) -> int:
        """Tokens in all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def pass_tokens(self) -> int:
        """Tokens in a pass of the model."""
        return self.contexts_per_pass * int(self.contexts["length"])

    def to_dict(self) -> dict[str, Any]:
        """As in manifest.json."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        return head | asdict(self) | {"tokens": self.tokens}


def bytes_per_token(sites: Iterable[CachedSite], dtype: str) -> int:
    """Bytes that a token takes: its id, and x and y at every site."""
    return _TOKEN_ID_BYTES + sum((s.d_in + s.d_out) * DTYPES[dtype] for s in sites)


_PROGRESS = {"command", "complete", "ended_because", "data_fingerprint", "shards"}
"""What two manifests of one harvest may differ in."""
_MEANS = {"device", "versions"}
"""What a finished harvest may have been made with, whatever is at hand today."""
_PACKAGES = ("torch", "transformers")
"""Packages that compute the activations: another version rounds otherwise."""


def differences(found: Manifest, asked: Manifest) -> list[str]:
    """What keeps one harvest from being another, as "name: there, asked"."""
    there, here = asdict(found), asdict(asked)
    names = [name for name in there if name not in _PROGRESS | _MEANS]
    return [line for name in names for line in _differences(name, there[name], here[name])]


def other_means(found: Manifest, asked: Manifest) -> list[str]:
    """What keeps a harvest from being gone on with, because it would compute otherwise."""
    pairs = {"device": (found.device, asked.device)} | {
        f"versions.{package}": (found.versions.get(package), asked.versions.get(package))
        for package in _PACKAGES
    }
    return [
        line for name, (there, here) in pairs.items() for line in _differences(name, there, here)
    ]


def _differences(name: str, there: Any, here: Any) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(set(there) | set(here))
        return [d for k in keys for d in _differences(f"{name}.{k}", there.get(k), here.get(k))]
    if name == "sites" and len(there) == len(here):
        return [d for a, b in zip(there, here, strict=True) for d in _differences("site", a, b)]
    there, here = (_names(value) if name == "sites" else value for value in (there, here))
    return [] if there == here else [f"{name}: {there!r} there, {here!r} here"]


def _names(sites: Any) -> list[str]:
    return [site["name"] for site in sites]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json as a whole."""
    text = json.dumps(manifest.to_dict(), indent=2) + "\n"
    replace_text(folder / MANIFEST, text, remedy=KEPT)


def read_manifest(folder: Path) -> Manifest:
    """Read and check manifest.json.

    Raises:
        UserError: no cache, one of another format, or one that is damaged.
    """
    path = folder / MANIFEST
    raw = _read_json(path)
    if raw.pop("format", None) != FORMAT:
        raise UserError(f"{path} is not the manifest of a cache (no format {FORMAT!r})")
    version = raw.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version!r}, expected {FORMAT_VERSION}; update mxd, or "
            "harvest again"
        )
    tokens = raw.pop("tokens", None)
    try:
        manifest = _build(raw)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged: {error}; fetch the cache again, or harvest again"
        ) from None
    if manifest.tokens != tokens:
        raise UserError(
            f"{path} is damaged: its shards hold {manifest.tokens} tokens, expected the {tokens!r} "
            "that it says; fetch the cache again, or harvest again"
        )
    return manifest


def _read_json(path: Path) -> dict[str, Any]:
    return read_json_object(
        path,
        missing=f"{path.parent} is no cache of activations: it has no {path.name}; expected a "
        "folder that `mxd harvest` wrote",
        remedy="fetch the cache again, or harvest again",
        most_bytes=_MAX_JSON_BYTES,
    )


def is_cache(folder: Path) -> bool:
    """Whether a folder's manifest is that of a cache, of whatever version; damaged ones count.

    A manifest that cannot be read counts where nothing is beside it but files of caches.
    """
    try:
        return _read_json(folder / MANIFEST).get("format") == FORMAT
    except UserError:
        return (folder / MANIFEST).is_file() and all(
            path.name == MANIFEST or is_cache_file(path.name) for path in folder.iterdir()
        )


def is_cache_file(name: str) -> bool:
    """Whether a shard, or a file of a cache that was never finished, has this name."""
    return _CACHE_FILE.fullmatch(name) is not None


def _build(raw: Mapping[str, Any]) -> Manifest:
    parts: dict[str, type[CachedSite] | type[Shard]] = {"sites": CachedSite, "shards": Shard}
    values = dict(raw)
    for name, kind in parts.items():
        values[name] = tuple(kind(**entry) for entry in values[name])
    values["command"] = tuple(values["command"])
    missing = {f.name for f in fields(Manifest)} - set(values)
    if missing:
        raise KeyError(f"it lacks {', '.join(sorted(missing))}")
    return Manifest(**values)


def _check(manifest: Manifest) -> None:
    for name in ("base_model", "contexts", "text", "versions"):
        _typed(name, getattr(manifest, name), dict)
    for name in ("model_dtype", "device", "tokenizer_fingerprint", "data_fingerprint"):
        _typed(name, getattr(manifest, name), str)
    _typed("complete", manifest.complete, bool)
    if not all(isinstance(word, str) for word in manifest.command):
        raise TypeError(f"got command {manifest.command!r}, expected texts")
    if manifest.dtype not in DTYPES:
        raise ValueError(f"got dtype {manifest.dtype!r}, expected one of {', '.join(DTYPES)}")
    if manifest.ended_because not in ((*ENDS,) if manifest.complete else (None,)):
        raise ValueError(f"got ended_because {manifest.ended_because!r}, expected {ENDS}")
    for name in ("contexts_per_pass", "tokens_wanted", "passes_per_shard"):
        _count(name, getattr(manifest, name))
    _count("length", manifest.contexts["length"])
    _count("contexts_per_pass * length", manifest.pass_tokens, MAX_PASS_TOKENS + 1)
    if manifest.max_size is not None:
        _count("max_size", manifest.max_size)
    _check_sites(manifest.sites)
    token = bytes_per_token(manifest.sites, manifest.dtype)
    for number, shard in enumerate(manifest.shards):
        _check_shard(number, shard, token)


def _check_sites(sites: tuple[CachedSite, ...]) -> None:
    for site in sites:
        _typed("site", site.name, str)
        _typed("fingerprint", site.fingerprint, str)
        _count("d_in", site.d_in, _MAX_WIDTH)
        _count("d_out", site.d_out, _MAX_WIDTH)
    if not sites or len({site.name for site in sites}) < len(sites):
        raise ValueError("expected at least one site, each once")


def _check_shard(number: int, shard: Shard, token: int) -> None:
    _typed("file", shard.file, str)
    if shard.file != shard_name(number):
        raise ValueError(f"got the file {shard.file!r}, expected {shard_name(number)!r}")
    _count("tokens", shard.tokens)
    _count("bytes", shard.bytes)
    if shard.tokens * token > shard.bytes:
        raise ValueError(
            f"got {shard.tokens} tokens of {token} bytes in the {shard.bytes} bytes of "
            f"{shard.file!r}, expected no more than it has room for"
        )
    _typed("sha256", shard.sha256, str)
    if not _HEXADECIMAL.fullmatch(shard.sha256):
        raise ValueError(f"got sha256 {shard.sha256!r}, expected 64 hexadecimal digits")


def shard_name(number: int) -> str:
    """The name of the file of a shard, from 0."""
    return f"shard-{number:05}.safetensors"


def _typed(name: str, value: Any, kind: type) -> None:
    if type(value) is not kind:
        raise TypeError(f"got {name}={value!r}, expected {kind.__name__}")


def _count(name: str, value: Any, below: int = _MAX_COUNT) -> None:
    if type(value) is not int or not 0 < value < below:
        raise ValueError(f"got {name}={value!r}, expected a whole number from 1 to {below - 1}")
