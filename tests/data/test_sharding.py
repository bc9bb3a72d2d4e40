"""Text dealt out to several streams: every document once, whoever reads it."""

import pytest
import torch

from mxd.data import (
    ActivationBatch,
    ActivationStream,
    Document,
    DocumentSource,
    ShardedStream,
    common_fingerprint,
    dealt_documents,
    part_of,
    shard_seed,
)
from mxd.errors import UserError

DOCUMENTS = [Document(f"d{i}", "word") for i in range(10)]


@pytest.mark.parametrize("shards", [1, 3, 4])
def test_every_document_is_dealt_out_once(shards):
    parts = [list(dealt_documents(DOCUMENTS, i, shards)) for i in range(shards)]
    assert sorted(d.key for part in parts for d in part) == sorted(d.key for d in DOCUMENTS)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    source = DocumentSource("all", lambda: iter(DOCUMENTS))
    assert [list(dealt_documents(source, i, shards)) for i in range(shards)] == parts


def test_a_shard_may_be_empty():
    assert list(dealt_documents(DOCUMENTS, 11, 12)) == []
    empty = DocumentSource("nothing", lambda: iter(()))
    with pytest.raises(UserError, match="got no text from nothing"):
        list(empty)
    assert list(dealt_documents(DOCUMENTS, 3, 4)) == DOCUMENTS[3::4]


def test_seeds_differ_and_that_of_the_first_shard_is_the_runs():
    seeds = [shard_seed(2**63 - 1, shard) for shard in range(50)]
    assert seeds[0] == 2**63 - 1
    assert len({*seeds}) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("shards", [1, 3, 4, 63, 64])
def test_all_of_a_batch_is_dealt_out(shards):
    parts = [part_of(64, shard, shards) for shard in range(shards)]
    assert sum(parts) == 64
    assert parts == sorted(parts, reverse=True)
    assert parts[0] - parts[-1] == (64 % shards > 0)


class Few(ActivationStream):
    """A stream of some batches of two rows each, which hold its number."""

    def __init__(self, number, batches):
        self.number, self.batches, self.tokens = number, batches, 0

    def prepare(self):
        """There is nothing to wait for."""

    @property
    def served(self):
        return self.tokens

    @property
    def epoch(self):
        return self.number

    @property
    def fingerprint(self):
        return f"f{self.number}"

    def __iter__(self):
        for _ in range(self.batches):
            self.tokens += 2
            rows = torch.full((2, 1), float(self.number))
            ids = torch.full((2,), self.number)
            yield ActivationBatch({"s": (rows, rows + 10)}, ids, self.served)


def test_shards_serve_together_until_the_last_has_ended():
    stream = ShardedStream({3: Few(3, 1), 1: Few(1, 3), 2: Few(2, 2)})
    batches = list(stream)
    ids = [batch.token_ids.tolist() for batch in batches]
    assert ids == [[1, 1, 2, 2, 3, 3], [1, 1, 2, 2], [1, 1]]
    assert [batch.tokens for batch in batches] == [6, 10, 12]
    assert batches[1].sites["s"][1].flatten().tolist() == [11, 11, 12, 12]
    assert stream.next_batch() is None
    assert stream.epoch == 3
    assert stream.fingerprints == {1: "f1", 2: "f2", 3: "f3"}


def test_a_process_without_a_shard_serves_nothing():
    stream = ShardedStream({})
    assert stream.next_batch() is None
    assert (stream.epoch, stream.first_buffers()) == (1, [])


def test_the_common_fingerprint_does_not_depend_on_the_order():
    assert common_fingerprint({0: "a"}) == "a"
    assert common_fingerprint({0: "a", 1: "b"}) == common_fingerprint({1: "b", 0: "a"})
    assert common_fingerprint({0: "a", 1: "b"}) != common_fingerprint({0: "b", 1: "a"})
