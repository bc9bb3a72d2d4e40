"""How large a cache will be, and whether there is room for it."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mxd.data.cache.manifest import MAX_SHARDS, CachedSite, Manifest, bytes_per_token
from mxd.errors import UserError

SHARD_BYTES = 256 << 20
"""What a shard is meant to hold, in bytes; at least one pass of the model."""
_HEADER_BYTES = 512
_HEADER_BYTES_FOR_A_TENSOR = 160
"""More than the header of a shard ever takes, beside the names of its tensors."""
_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")


class Plan(NamedTuple):
    """How much a harvest will write."""

    passes: int
    """Passes of the model, unless the text ends before."""
    tokens: int
    """Tokens that these give."""
    bytes: int
    """Size of the shards, at most."""
    ended_because: str
    """What will end it: `tokens` or `size`."""


def passes_per_shard(
    sites: Iterable[CachedSite], dtype: str, pass_tokens: int, shard_bytes: int = SHARD_BYTES
) -> int:
    """Passes of the model that go into one file."""
    return max(1, shard_bytes // (pass_tokens * bytes_per_token(sites, dtype)))


def plan(manifest: Manifest) -> Plan:
    """What a harvest will write before its tokens or its size are reached.

    Raises:
        UserError: the bound on the size leaves no room for one pass of the model, or there would
            be more files than a manifest can list.
    """
    header = _HEADER_BYTES + sum(
        2 * (_HEADER_BYTES_FOR_A_TENSOR + len(site.name.encode()) * 6) for site in manifest.sites
    )
    one = manifest.pass_tokens * bytes_per_token(manifest.sites, manifest.dtype)
    per_shard = manifest.passes_per_shard
    wanted = -(-manifest.tokens_wanted // manifest.pass_tokens)
    passes, because = wanted, "tokens"
    if manifest.max_size is not None:
        full, rest = divmod(manifest.max_size, per_shard * one + header)
        room = full * per_shard + max(0, min(per_shard, (rest - header) // one))
        if room < 1:
            raise UserError(
                f"got a bound of {readable(manifest.max_size)} on the size, expected at least the "
                f"{readable(one + header)} of one pass of the model; raise it, or harvest fewer "
                "sites or fewer contexts in a pass"
            )
        if room < wanted:
            passes, because = room, "size"
    shards = -(-passes // per_shard)
    if shards > MAX_SHARDS:
        raise UserError(
            f"got a harvest of {shards:,} files of {readable(per_shard * one + header)}, expected "
            f"at most {MAX_SHARDS:,}; harvest fewer tokens, or into several caches"
        )
    size = passes * one + shards * header
    return Plan(passes, passes * manifest.pass_tokens, size, because)


def check_room(folder: Path, needed: int) -> None:
    """Make sure that the disk has room.

    Args:
        folder: where the files will be; it need not exist yet.
        needed: bytes.

    Raises:
        UserError: it has not.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"the cache will take {readable(needed)} more, expected at least as much free in "
            f"{place}, which has {readable(free)}; make room, lower the number of tokens or "
            "sites, or bound the size"
        )


def readable(size: int) -> str:
    """A number of bytes with a unit: powers of 1000."""
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"
