"""Write a cache of activations, shard by shard, so that it can be stopped and gone on with."""

import hashlib
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mxd.data.buffer import Rows
from mxd.data.cache.files import replace_durably, sha256_of
from mxd.data.cache.manifest import (
    MANIFEST,
    Manifest,
    Shard,
    differences,
    read_manifest,
    shard_name,
    write_manifest,
)
from mxd.data.cache.shard import TOKEN_IDS, OpenShard, shard_path, x_of, y_of
from mxd.errors import UserError


class CacheWriter:
    """Puts rows into shards and keeps the manifest true after each.

    Args:
        folder: the cache's folder, as `opened_cache` left it.
        manifest: its manifest.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self.manifest = folder, manifest
        self._held: list[Rows] = []
        self._digest = hashlib.sha256()
        for ids in stored_token_ids(folder, manifest):
            self._digest.update(_bytes(ids))

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
            fingerprint: SHA-256 of all token ids of the text up to their end.
        """
        digest = self._digest.copy()
        digest.update(_bytes(rows.token_ids))
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
        replace_durably(path, lambda place: save_file(tensors, place, {"format": "pt"}))
        token_ids = tensors[TOKEN_IDS]
        self._digest.update(_bytes(token_ids))
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
    """Make the folder of a cache, or find what an interrupted harvest left in it.

    Args:
        folder: where the cache is to be.
        asked: what is to be harvested.
        overwrite: start anew, whatever is there.

    Returns:
        The manifest to go on from; it is complete where there is nothing left to do.

    Raises:
        UserError: the folder holds something else, or another harvest.
    """
    found = check_target(folder, asked, overwrite=overwrite)
    if found is not None:
        kept = _good_shards(folder, found)
        if kept == found.shards:
            return found
        found = replace(found, shards=kept, complete=False, ended_because=None)
        digest = hashlib.sha256()
        for ids in stored_token_ids(folder, found):
            digest.update(_bytes(ids))
        asked = replace(found, data_fingerprint=digest.hexdigest())
    else:
        discard(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output folder {folder} cannot be made ({error.strerror}), expected one that can; "
            "choose another"
        ) from None
    write_manifest(folder, asked)
    return asked


def discard(folder: Path) -> None:
    """Take a cache away, and its folder if nothing else is in it."""
    if not folder.is_dir():
        return
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.glob("shard-*.safetensors"):
        path.unlink()
    with suppress(OSError):
        folder.rmdir()


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
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"output folder {folder} holds something other than a cache, so nothing is written "
            "there; choose another"
        )
    if overwrite:
        return None
    found = read_manifest(folder)
    if asked is not None:
        _check_same(folder, found, asked)
    return found


def _names(folder: Path) -> list[str]:
    """What is in a folder, but for the beginnings of a manifest that was never finished."""
    return [path.name for path in folder.iterdir() if path.name != f".{MANIFEST}.new"]


def _check_same(folder: Path, found: Manifest, asked: Manifest) -> None:
    unlike = differences(found, asked)
    if unlike:
        raise UserError(
            f"{folder} holds another harvest ({'; '.join(unlike)}), expected the same one to go on "
            "with; choose another folder, or pass --overwrite to replace it"
        )


def _good_shards(folder: Path, manifest: Manifest) -> tuple[Shard, ...]:
    """The shards up to the first that is not there as the manifest says.

    Sizes are compared, and of the newest the content: the others were there before it.
    """
    kept = 0
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            break
        kept += 1
    while kept and sha256_of(folder / manifest.shards[kept - 1].file) != (
        manifest.shards[kept - 1].sha256
    ):
        kept -= 1
    return manifest.shards[:kept]


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


def _bytes(token_ids: Tensor) -> bytes:
    return bytes(token_ids.numpy().astype("<i8").tobytes())
