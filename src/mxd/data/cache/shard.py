"""One file of a cache, opened for reading single rows: checked first, and never unpickled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mxd.data.buffer import Rows
from mxd.data.cache.files import sha256_of
from mxd.data.cache.manifest import CachedSite, Shard
from mxd.errors import UserError

TOKEN_IDS = "token_ids"
_TYPES = {"float32": "F32", "bfloat16": "BF16"}


def x_of(site: str) -> str:
    """The name of the tensor of what goes into a site."""
    return f"{site}/x"


def y_of(site: str) -> str:
    """The name of the tensor of what comes out of a site."""
    return f"{site}/y"


def shard_path(folder: Path, shard: Shard) -> Path:
    """Where a shard is.

    Raises:
        UserError: it is not there, is no plain file, or has another size than the manifest says.
    """
    path = folder / shard.file
    if path.is_symlink() or not path.is_file():
        raise UserError(
            f"the cache {folder} lacks its file {shard.file}, expected every shard that its "
            "manifest lists; fetch it again, or give the same `mxd harvest` again"
        )
    size = path.stat().st_size
    if size != shard.bytes:
        raise UserError(
            f"{path} is damaged: it has {size} bytes, expected {shard.bytes}; fetch it again, or "
            "give the same `mxd harvest` again"
        )
    return path


def check_content(path: Path, shard: Shard) -> None:
    """Compare the checksum, which reads the whole file.

    Raises:
        UserError: the content is not what was written.
    """
    if sha256_of(path) != shard.sha256:
        raise UserError(
            f"{path} is damaged: its SHA-256 is not the one in the manifest; fetch it again, or "
            "delete it and give the same `mxd harvest` again"
        )


class OpenShard:
    """A memory-mapped shard; only the rows and sites that are asked for are read.

    Args:
        path: the file, as `shard_path` gives it.
        shard: what the manifest says of it.
        sites: the sites that will be read.
        dtype: type of the activations in it.

    Raises:
        UserError: no safetensors, or other names, shapes or types than the manifest says.
    """

    def __init__(self, path: Path, shard: Shard, sites: Sequence[CachedSite], dtype: str) -> None:
        self._sites = sites
        wanted: dict[str, tuple[str, list[int]]] = {TOKEN_IDS: ("I64", [shard.tokens])}
        for site in sites:
            wanted[x_of(site.name)] = (_TYPES[dtype], [shard.tokens, site.d_in])
            wanted[y_of(site.name)] = (_TYPES[dtype], [shard.tokens, site.d_out])
        try:
            self._file: Any = safe_open(path, framework="pt", device="cpu")
            names = set(self._file.keys())
            for name, (kind, shape) in wanted.items():
                if name not in names:
                    raise UserError(f"{path} lacks the tensor {name}; harvest again")
                part = self._file.get_slice(name)
                found = (part.get_dtype(), list(part.get_shape()))
                if found != (kind, shape):
                    raise UserError(
                        f"{path}: {name} has type {found[0]} and shape {found[1]}, expected {kind} "
                        f"and {shape} as the manifest says; fetch it again, or harvest again"
                    )
        except SafetensorError as error:
            raise UserError(
                f"{path} is damaged: expected safetensors, {error}; fetch it again, or harvest "
                "again"
            ) from None

    def token_ids(self, start: int, stop: int) -> Int64[Tensor, " tokens"]:
        """Token ids of consecutive rows."""
        ids: Tensor = self._file.get_slice(TOKEN_IDS)[start:stop]
        return ids

    def rows(self, start: int, stop: int) -> Rows:
        """Consecutive rows."""
        sites = {
            site.name: (
                self._part(x_of(site.name), start, stop),
                self._part(y_of(site.name), start, stop),
            )
            for site in self._sites
        }
        return Rows(sites, self.token_ids(start, stop))

    def _part(self, name: str, start: int, stop: int) -> Float[Tensor, "tokens width"]:
        part: Tensor = self._file.get_slice(name)[start:stop]
        return part
