"""Text dealt out to several streams, so that any number of processes can share the work.

What a step trains on depends on the number of shards alone, never on who runs them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import torch

from mxd.data.buffer import SiteActivations
from mxd.data.documents import Document, DocumentSource
from mxd.data.stream import ActivationBatch, ActivationStream


def dealt_documents(source: Iterable[Document], shard: int, shards: int) -> DocumentSource:
    """Every `shards`-th document of a source, from number `shard` on; there may be none.

    Args:
        source: documents that can be iterated more than once, always in the same order.
        shard: which shard, from 0.
        shards: how many there are.
    """
    name = source.description if isinstance(source, DocumentSource) else "the documents"
    return DocumentSource(
        f"part {shard + 1} of {shards} of {name}",
        lambda: islice(iter(source), shard, None, shards),
        may_be_empty=True,
    )


def shard_seed(seed: int, shard: int) -> int:
    """The seed of a shard's order; that of shard 0 is the run's own."""
    return (seed + shard * 0x9E3779B97F4A7C15) % 2**63


def part_of(count: int, shard: int, shards: int) -> int:
    """What a shard has of a count that is dealt out; the first ones have one more if need be."""
    return count // shards + (shard < count % shards)


class ShardedStream:
    """The streams of some text shards, which serve a batch together.

    Shards whose text ends earlier than others' serve nothing from then on; the stream ends with the
    last of them.

    Args:
        shards: streams by the number of their shard; those of other processes are absent.
    """

    def __init__(self, shards: Mapping[int, ActivationStream]) -> None:
        self.shards = dict(sorted(shards.items()))
        self._running = {number: iter(stream) for number, stream in self.shards.items()}

    def __iter__(self) -> Iterator[ActivationBatch]:
        while (batch := self.next_batch()) is not None:
            yield batch

    def next_batch(self) -> ActivationBatch | None:
        """The next batch, the shards in the order of their numbers; None when all have ended."""
        # All that may have to be waited for comes first: no shard is a batch ahead of the others.
        for number in self._running:
            self.shards[number].prepare()
        parts: list[ActivationBatch] = []
        for number, batches in list(self._running.items()):
            part = next(batches, None)
            if part is None:
                del self._running[number]
            else:
                parts.append(part)
        if not parts:
            return None
        tokens = sum(stream.served for stream in self.shards.values())
        if len(parts) == 1:
            return parts[0]._replace(tokens=tokens)
        sites = {
            name: (
                torch.cat([part.sites[name][0] for part in parts]),
                torch.cat([part.sites[name][1] for part in parts]),
            )
            for name in parts[0].sites
        }
        return ActivationBatch(sites, torch.cat([part.token_ids for part in parts]), tokens)

    def first_buffers(self) -> list[SiteActivations]:
        """What `ActivationStream.first_buffer` gives, for each of these shards that has any."""
        buffers = [stream.first_buffer() for stream in self.shards.values()]
        return [buffer for buffer in buffers if buffer]

    @property
    def fingerprints(self) -> dict[int, str]:
        """Fingerprints of the text by the number of the shard."""
        return {number: stream.fingerprint for number, stream in self.shards.items()}

    @property
    def epoch(self) -> int:
        """The epoch that the furthest of them is in, from 1."""
        return max((stream.epoch for stream in self.shards.values()), default=1)

    def close(self) -> None:
        """End the background threads."""
        for stream in self.shards.values():
            stream.close()


def common_fingerprint(fingerprints: Mapping[int, str]) -> str:
    """One fingerprint of all shards, whoever ran them; that of a single shard is its own."""
    if len(fingerprints) == 1:
        return next(iter(fingerprints.values()))
    joined = "".join(one for _, one in sorted(fingerprints.items()))
    return hashlib.sha256(joined.encode()).hexdigest()
