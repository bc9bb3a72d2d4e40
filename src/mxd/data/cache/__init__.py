"""Activations on disk: written once, read as often as layers are trained on them."""

from mxd.data.cache.fill import HarvestProgress, OnHarvest, fill_cache
from mxd.data.cache.manifest import (
    DTYPES,
    MAX_PASS_TOKENS,
    CachedSite,
    Manifest,
    Shard,
    bytes_per_token,
    read_manifest,
)
from mxd.data.cache.reader import CachedRows, cached_sites
from mxd.data.cache.sizing import check_room, passes_per_shard, plan, readable
from mxd.data.cache.stream import CachedStream
from mxd.data.cache.writer import check_target, stored_token_ids

__all__ = [
    "DTYPES",
    "MAX_PASS_TOKENS",
    "CachedRows",
    "CachedSite",
    "CachedStream",
    "HarvestProgress",
    "Manifest",
    "OnHarvest",
    "Shard",
    "bytes_per_token",
    "cached_sites",
    "check_room",
    "check_target",
    "fill_cache",
    "passes_per_shard",
    "plan",
    "read_manifest",
    "readable",
    "stored_token_ids",
]
