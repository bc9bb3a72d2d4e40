"""Rows of activations out of a cache, in the order of the harvest or mixed across shards."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mxd.data.buffer import Rows
from mxd.data.cache.manifest import CachedSite, Manifest
from mxd.data.cache.shard import OpenShard, check_content, shard_path
from mxd.data.row_source import Pass, Position, RowSource
from mxd.errors import UserError

OPEN_SHARDS = 8
"""Shards that blocks are drawn from at a time."""


class _Block(NamedTuple):
    """Consecutive rows of a shard."""

    shard: OpenShard
    start: int
    stop: int


class _Opened(NamedTuple):
    """A shard that blocks are drawn from."""

    shard: OpenShard
    tokens: int
    starts: list[int]


class CachedRows(RowSource):
    """The rows of a cache, epoch after epoch; every row of an epoch once.

    Shuffled, the shards are opened in random order, eight at a time, and blocks of rows (a context
    each) are drawn at random from those that are open; each epoch has an order of its own, which
    depends on the seed alone. A row is mixed with the rest of its block and with other documents
    by the buffer of the stream. Otherwise rows come as the model gave them.

    Args:
        folder: The cache's folder.
        manifest: Its manifest.
        sites: Names of the sites to read; nothing is read of the others.
        dtype: What activations are given as.
        excluded_token_ids: Tokens whose rows are left out.
        repeat: Whether a new epoch follows the last row.
        least_tokens: An epoch that gives fewer rows than this is an error.
        shuffle: Mix the rows across shards.
        seed: Seed of the order.
        verify: Compare the checksum of each shard when it is first opened.
        limit: Rows that will be taken at most.
        ahead: Readings made ahead in a background thread.
        block_tokens: Consecutive rows that are drawn together; None for a context.
        open_shards: Shards that are drawn from at a time.

    Raises:
        UserError: A site is not in the cache. While iterating: a shard is damaged.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        sites: Sequence[str],
        *,
        dtype: torch.dtype,
        excluded_token_ids: Sequence[int] = (),
        repeat: bool,
        least_tokens: int,
        shuffle: bool = True,
        seed: int = 42,
        verify: bool = True,
        limit: int | None = None,
        ahead: int = 0,
        block_tokens: int | None = None,
        open_shards: int = OPEN_SHARDS,
    ) -> None:
        super().__init__(
            of="cache", repeat=repeat, least_tokens=least_tokens, limit=limit, ahead=ahead
        )
        self._folder, self._manifest = folder, manifest
        self._sites = cached_sites(folder, manifest, sites)
        self._dtype = dtype
        self._excluded = torch.tensor(sorted(excluded_token_ids), dtype=torch.int64)
        self._shuffle, self._seed = shuffle, seed
        self._verify, self._verified = verify, set[str]()
        self._block_tokens = block_tokens or int(manifest.contexts["length"])
        self._open_shards = open_shards

    def _passes(self, epoch: int, after: Position | None) -> Iterator[Pass]:
        """As many rows at a time as a pass of the model gave; those before `after` are not read."""
        done = 0 if after is None else after.passes
        readings = self._shuffled(epoch) if self._shuffle else self._in_order()
        for reading in islice(readings, done, None):
            yield self._given([shard.rows(start, stop) for shard, start, stop in reading])

    def _in_order(self) -> Iterator[list[_Block]]:
        for number in range(len(self._manifest.shards)):
            shard = self._open(number)
            tokens = self._manifest.shards[number].tokens
            for start in range(0, tokens, self._manifest.pass_tokens):
                yield [_Block(shard, start, min(start + self._manifest.pass_tokens, tokens))]

    def _shuffled(self, epoch: int) -> Iterator[list[_Block]]:
        held: list[_Block] = []
        count = 0
        for block in self._blocks(np.random.default_rng([self._seed, epoch])):
            held.append(block)
            count += block.stop - block.start
            if count >= self._manifest.pass_tokens:
                yield held
                held, count = [], 0
        if held:
            yield held

    def _blocks(self, draw: np.random.Generator) -> Iterator[_Block]:
        """Blocks in random order; a shard is drawn from by how many blocks it has left."""
        waiting = list(draw.permutation(len(self._manifest.shards)))
        opened: list[_Opened] = []
        while waiting or opened:
            while waiting and len(opened) < self._open_shards:
                opened.append(self._opened(int(waiting.pop()), draw))
            place = int(draw.integers(sum(len(one.starts) for one in opened)))
            index = 0
            while place >= len(opened[index].starts):
                place -= len(opened[index].starts)
                index += 1
            one = opened[index]
            start = one.starts.pop()
            yield _Block(one.shard, start, min(start + self._block_tokens, one.tokens))
            if not one.starts:
                del opened[index]

    def _opened(self, number: int, draw: np.random.Generator) -> _Opened:
        shard = self._open(number)  # which makes sure that so many rows are there
        tokens = self._manifest.shards[number].tokens
        starts = draw.permutation(np.arange(0, tokens, self._block_tokens)).tolist()
        return _Opened(shard, tokens, starts)

    def _open(self, number: int) -> OpenShard:
        shard = self._manifest.shards[number]
        path = shard_path(self._folder, shard)
        if self._verify and shard.file not in self._verified:
            check_content(path, shard)
            self._verified.add(shard.file)
        return OpenShard(path, shard, self._sites, self._manifest.dtype)

    def _given(self, held: list[Rows]) -> Pass:
        token_ids = torch.cat([rows.token_ids for rows in held])
        kept = torch.isin(token_ids, self._excluded, invert=True).nonzero().squeeze(-1)
        sites = {}
        for site in self._sites:
            x = torch.cat([rows.sites[site.name][0] for rows in held])
            y = torch.cat([rows.sites[site.name][1] for rows in held])
            if len(kept) < len(token_ids):
                x, y = x.index_select(0, kept), y.index_select(0, kept)
            sites[site.name] = (x.to(self._dtype), y.to(self._dtype))
        return Pass(Rows(sites, token_ids[kept]), token_ids)


def cached_sites(folder: Path, manifest: Manifest, names: Sequence[str]) -> list[CachedSite]:
    """The sites of a cache by name, in the order asked for.

    Raises:
        UserError: it lacks one.
    """
    known = {site.name: site for site in manifest.sites}
    for name in names:
        if name not in known:
            raise UserError(
                f"got site {name}, expected one of those in the cache {folder}: "
                f"{', '.join(known)}; choose among these, or harvest again with it"
            )
    return [known[name] for name in names]
