"""Write a cache of activations, shard by shard, so that it can be stopped and gone on with."""

import logging
import os
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mxd._durable_files import passing_name, replace_durably, sha256_of
from mxd.data.buffer import Rows
from mxd.data.cache.manifest import (
    KEPT,
    MANIFEST,
    Manifest,
    Shard,
    differences,
    is_cache,
    is_cache_file,
    other_means,
    read_manifest,
    shard_name,
    write_manifest,
)
from mxd.data.cache.shard import TOKEN_IDS, OpenShard, check_content, shard_path, x_of, y_of
from mxd.data.cache.sizing import readable
from mxd.data.token_digest import TokenDigest
from mxd.errors import UserError

_logger = logging.getLogger(__name__)


class CacheWriter:
    """Puts rows into shards and keeps the manifest true after each.

    Args:
        folder: the cache's folder, as `opened_cache` left it.
        manifest: its manifest.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self.manifest = folder, manifest
        self._held: list[Rows] = []
        self._digest = TokenDigest()
        for ids in stored_token_ids(folder, manifest):
            self._digest.update(ids)

    @property
    def tokens(self) -> int:
        """Tokens in finished shards and in the one that is being filled."""
        return self.manifest.tokens + sum(len(rows.token_ids) for rows in self._held)

    @property
    def passes(self) -> int:
        """Passes of the model that these are; all are whole but the last of a text."""
        return -(-self.tokens // self.manifest.pass_tokens)

    def follows(self, rows: Rows, fingerprint: str) -> bool:
        """Whether rows are what comes after the finished shards.

        Args:
            rows: the first new ones.
            fingerprint: of all token ids of the text up to their end.
        """
        digest = self._digest.copy()
        digest.update(rows.token_ids)
        return digest.hexdigest() == fingerprint

    def add(self, rows: Rows) -> None:
        """Take the rows of one pass of the model; write a shard when it is full."""
        self._held.append(rows)
        if len(self._held) == self.manifest.passes_per_shard:
            self._write_shard()

    def finish(self, ended_because: str) -> Manifest:
        """Write what is left, and say that the cache is complete."""
        if self._held:
            self._write_shard()
        self.manifest = replace(self.manifest, complete=True, ended_because=ended_because)
        write_manifest(self._folder, self.manifest)
        return self.manifest

    def _write_shard(self) -> None:
        tensors = _tensors(self._held)
        name = shard_name(len(self.manifest.shards))
        path = self._folder / name
        replace_durably(
            path, lambda place: save_file(tensors, place, {"format": "pt"}), remedy=KEPT
        )
        token_ids = tensors[TOKEN_IDS]
        self._digest.update(token_ids)
        shard = Shard(
            file=name,
            tokens=len(token_ids),
            bytes=path.stat().st_size,
            sha256=sha256_of(path),
        )
        self.manifest = replace(
            self.manifest,
            shards=(*self.manifest.shards, shard),
            data_fingerprint=self._digest.hexdigest(),
        )
        write_manifest(self._folder, self.manifest)
        self._held = []


def opened_cache(folder: Path, asked: Manifest, *, overwrite: bool) -> Manifest:
    """Begin a cache, or find what an interrupted harvest left; the folder is there and locked.

    The content of every finished shard is compared with its checksum. The manifest of an earlier
    harvest is left as it is until there is a new shard to enter.

    Args:
        folder: where the cache is to be.
        asked: what is to be harvested.
        overwrite: start anew, whatever cache is there.

    Returns:
        The manifest to go on from; it is complete where there is nothing left to do.

    Raises:
        UserError: the folder holds something else, or another harvest.
    """
    found = check_target(folder, asked, overwrite=overwrite)
    if found is None:
        discard(folder)
        write_manifest(folder, asked)
        return asked
    kept = _good_shards(folder, found)
    if kept == found.shards:
        return found
    _check_means(folder, found, asked)
    found = replace(found, shards=kept, complete=False, ended_because=None)
    digest = TokenDigest()
    for ids in stored_token_ids(folder, found):
        digest.update(ids)
    return replace(found, data_fingerprint=digest.hexdigest())


def discard(folder: Path) -> None:
    """Delete the files of a cache, and nothing else; the manifest last."""
    for path in sorted(folder.iterdir()):
        if is_cache_file(path.name) and (path.is_symlink() or path.is_file()):
            path.unlink()
    (folder / MANIFEST).unlink(missing_ok=True)


def stored_bytes(folder: Path) -> int:
    """Bytes of the files that `discard` would delete."""
    if not folder.is_dir():
        return 0
    return sum(p.lstat().st_size for p in folder.iterdir() if is_cache_file(p.name))


def check_target(folder: Path, asked: Manifest | None, *, overwrite: bool) -> Manifest | None:
    """Make sure, before any work, that a cache may be written to a folder.

    Args:
        folder: where the cache is to be.
        asked: what is to be harvested; None looks at the folder alone.
        overwrite: whether what is there may be replaced.

    Returns:
        The manifest of an earlier harvest of the same that can be gone on with, or None.

    Raises:
        UserError: the folder holds something else, or another harvest.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(
            f"output {folder} is a file, expected the name of a folder to write; choose another"
        )
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(
            f"output folder {folder} cannot be written, because {parent} is no folder that can be "
            "written to, expected one; choose another"
        )
    if not folder.exists() or not _names(folder):
        return None
    if not ((folder / MANIFEST).is_file() and (is_cache(folder) or not overwrite)):
        raise UserError(
            f"output folder {folder} holds something other than a cache, so nothing is written "
            "there; choose another"
        )
    if overwrite:
        return None
    found = read_manifest(folder)
    if asked is not None:
        _check_same(folder, found, asked)
        if not found.complete:
            _check_means(folder, found, asked)
    return found


def _names(folder: Path) -> list[str]:
    """What is in a folder, but for the beginnings of a manifest that was never finished."""
    return [path.name for path in folder.iterdir() if path.name != passing_name(MANIFEST)]


def _check_same(folder: Path, found: Manifest, asked: Manifest) -> None:
    unlike = differences(found, asked)
    if unlike:
        raise UserError(
            f"{folder} holds another harvest ({'; '.join(unlike)}), expected the same one to go on "
            "with; choose another folder, or pass --overwrite to replace it"
        )


def _check_means(folder: Path, found: Manifest, asked: Manifest) -> None:
    unlike = other_means(found, asked)
    if unlike:
        raise UserError(
            f"the harvest in {folder} was begun with other means ({'; '.join(unlike)}), which "
            "round otherwise, expected the same to go on; bring them back, choose another folder, "
            "or pass --overwrite to start anew"
        )


def _good_shards(folder: Path, manifest: Manifest) -> tuple[Shard, ...]:
    """The shards up to the first that is not there as the manifest says."""
    if manifest.shards:
        _logger.info("comparing %s of shards with their checksums", readable(manifest.bytes))
    return tuple(takewhile(partial(_is_good, folder), manifest.shards))


def _is_good(folder: Path, shard: Shard) -> bool:
    try:
        check_content(shard_path(folder, shard), shard)
    except UserError as error:
        _logger.warning("it and the shards after it are harvested again, because %s", error)
        return False
    return True


def stored_token_ids(folder: Path, manifest: Manifest) -> list[Tensor]:
    """The token ids of each shard, in order."""
    found = []
    for shard in manifest.shards:
        opened = OpenShard(shard_path(folder, shard), shard, (), manifest.dtype)
        found.append(opened.token_ids(0, shard.tokens))
    return found


def _tensors(passes: list[Rows]) -> dict[str, Any]:
    tensors = {TOKEN_IDS: torch.cat([rows.token_ids for rows in passes])}
    for name in passes[0].sites:
        tensors[x_of(name)] = torch.cat([rows.sites[name][0] for rows in passes])
        tensors[y_of(name)] = torch.cat([rows.sites[name][1] for rows in passes])
    return tensors
