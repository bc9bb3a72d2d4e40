"""The shuffled stream of activations, out of a cache instead of the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from mxd.data.cache.manifest import Manifest
from mxd.data.cache.reader import CachedRows
from mxd.data.stream import ActivationStream, check_choices, whole_batches


class CachedStream(ActivationStream):
    """Activations of a cache, shuffled through a buffer of constant size.

    With `shuffle=False` the batches are, bit for bit, those of an `ActivationStream` over the text
    that was harvested, where buffer and cache have the same type.

    Args:
        folder: The cache's folder.
        manifest: Its manifest.
        sites: Names of the sites to read.
        shuffle: Draw rows from all over the cache into the buffer, rather than in the order of
            the harvest.
        verify: Compare the checksum of each shard when it is first opened.
        batch_tokens: Tokens in a batch.
        buffer_tokens: Tokens in the buffer.
        refill: Share of the buffer that is served before the order is drawn anew.
        device: Where the buffer and the batches live.
        dtype: What activations are kept as in the buffer.
        excluded_token_ids: Tokens whose activations are left out.
        on_exhausted: At the end of the cache, "repeat" it or "stop".
        seed: Seed of the order.
        max_tokens: Tokens after which to stop, rounded up to whole batches; None for no limit.
        prefetch: Readings made ahead in a background thread.
        pinned: Give batches in pinned memory, for an accelerator to fetch.

    Raises:
        UserError: As `ActivationStream`; a site is not in the cache, or a shard is damaged.
    """

    def __init__(
        self,
        *,
        folder: Path,
        manifest: Manifest,
        sites: Sequence[str],
        shuffle: bool = True,
        verify: bool = True,
        batch_tokens: int = 4096,
        buffer_tokens: int = 524_288,
        refill: float = 0.5,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        excluded_token_ids: Sequence[int] = (),
        on_exhausted: Literal["repeat", "stop"] = "repeat",
        seed: int = 42,
        max_tokens: int | None = None,
        prefetch: int = 0,
        pinned: bool = False,
    ) -> None:
        check_choices(on_exhausted, batch_tokens=batch_tokens)
        source = CachedRows(
            folder,
            manifest,
            sites,
            dtype=dtype,
            excluded_token_ids=excluded_token_ids,
            repeat=on_exhausted == "repeat",
            least_tokens=batch_tokens,
            shuffle=shuffle,
            seed=seed,
            verify=verify,
            limit=whole_batches(max_tokens, batch_tokens),
            ahead=prefetch,
        )
        self._begin(
            source,
            batch_tokens=batch_tokens,
            buffer_tokens=buffer_tokens,
            refill=refill,
            device=torch.device(device),
            dtype=dtype,
            seed=seed,
            max_tokens=max_tokens,
            pinned=pinned,
        )
