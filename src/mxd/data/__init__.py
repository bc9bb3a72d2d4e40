"""Text sources, contexts of tokens, and the shuffled stream of activations."""

from mxd.data.buffer import SiteActivations
from mxd.data.cache import (
    MAX_PASS_TOKENS,
    CachedSite,
    CachedStream,
    HarvestProgress,
    Manifest,
    OnHarvest,
    check_target,
    fill_cache,
    passes_per_shard,
    plan,
    read_manifest,
    readable,
)
from mxd.data.documents import Document, DocumentSource, document_keys
from mxd.data.harvest import Harvest, regroup
from mxd.data.packing import ContextOptions, Contexts, PackedContexts, pack
from mxd.data.prefetch import NoLongerWantedError, prefetch, until
from mxd.data.retrying import RetryOptions
from mxd.data.sharding import (
    ShardedStream,
    common_fingerprint,
    dealt_documents,
    part_of,
    shard_seed,
)
from mxd.data.sources import PYTHON_STDLIB, open_documents
from mxd.data.special_tokens import ExclusionOptions, special_token_ids
from mxd.data.split import split_documents, without_documents
from mxd.data.spread import SpreadContexts
from mxd.data.stdlib import python_stdlib_documents
from mxd.data.stream import ActivationBatch, ActivationStream
from mxd.data.text_options import TextOptions
from mxd.data.tokenising import tokenizer_fingerprint

__all__ = [
    "MAX_PASS_TOKENS",
    "PYTHON_STDLIB",
    "ActivationBatch",
    "ActivationStream",
    "CachedSite",
    "CachedStream",
    "ContextOptions",
    "Contexts",
    "Document",
    "DocumentSource",
    "ExclusionOptions",
    "Harvest",
    "HarvestProgress",
    "Manifest",
    "NoLongerWantedError",
    "OnHarvest",
    "PackedContexts",
    "RetryOptions",
    "ShardedStream",
    "SiteActivations",
    "SpreadContexts",
    "TextOptions",
    "check_target",
    "common_fingerprint",
    "dealt_documents",
    "document_keys",
    "fill_cache",
    "open_documents",
    "pack",
    "part_of",
    "passes_per_shard",
    "plan",
    "prefetch",
    "python_stdlib_documents",
    "read_manifest",
    "readable",
    "regroup",
    "shard_seed",
    "special_token_ids",
    "split_documents",
    "tokenizer_fingerprint",
    "until",
    "without_documents",
]
