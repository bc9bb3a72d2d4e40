"""One file of a cache, opened for reading single rows: checked first, and never unpickled."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mxd._durable_files import sha256_of
from mxd._outside_files import cannot_read
from mxd._tensor_files import TensorFile
from mxd.data.buffer import Rows
from mxd.data.cache.manifest import CachedSite, Shard
from mxd.errors import UserError

TOKEN_IDS = "token_ids"
_REMEDY = "fetch it again, or harvest again"


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
    try:
        size = path.stat().st_size
    except OSError:
        size = -1
    if size < 0 or path.is_symlink() or not path.is_file():
        raise UserError(
            f"the cache {folder} lacks its file {shard.file}, expected every shard that its "
            "manifest lists; fetch it again, or give the same `mxd harvest` again"
        )
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
    try:
        found = sha256_of(path)
    except OSError as error:  # it is gone since, or the disk fails
        raise cannot_read(path, error) from None
    if found != shard.sha256:
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
        kind: torch.dtype = getattr(torch, dtype)  # one of DTYPES, by the manifest's own check
        wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            TOKEN_IDS: (torch.int64, (shard.tokens,))
        }
        for site in sites:
            wanted[x_of(site.name)] = (kind, (shard.tokens, site.d_in))
            wanted[y_of(site.name)] = (kind, (shard.tokens, site.d_out))
        self._file = TensorFile(path, remedy=_REMEDY)
        for name, expected in wanted.items():
            if name not in self._file.entries:
                raise UserError(f"{path} lacks the tensor {name}; harvest again")
            found = self._file.entries[name]
            if found != expected:
                raise UserError(
                    f"{path}: {name} has type {found.dtype} and shape {found.shape}, expected "
                    f"{expected[0]} and {expected[1]} as the manifest says; {_REMEDY}"
                )

    def token_ids(self, start: int, stop: int) -> Int64[Tensor, " tokens"]:
        """Token ids of consecutive rows."""
        return self._file.rows(TOKEN_IDS, start, stop)

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
        return self._file.rows(name, start, stop)
