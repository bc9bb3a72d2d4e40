"""Contexts spread evenly over a text."""

import torch

from mxd.data import Contexts, SpreadContexts


def contexts(count: int, length: int = 4, per_batch: int = 3) -> list[Contexts]:
    numbers = torch.arange(count)
    tokens = numbers.unsqueeze(1).expand(count, length).contiguous()
    documents = (tokens // 2).int()
    return [
        Contexts(tokens[i : i + per_batch], documents[i : i + per_batch])
        for i in range(0, count, per_batch)
    ]


def taken(spread: SpreadContexts) -> list[int]:
    return [int(row[0]) for batch in spread for row in batch.tokens]


def test_spread_takes_contexts_from_all_over_the_text():
    spread = SpreadContexts(contexts(12), 12)
    assert taken(spread) == [3, 7, 11]
    assert taken(spread) == [3, 7, 11]  # and again


def test_spread_keeps_the_numbers_of_documents():
    (batch,) = SpreadContexts(contexts(12), 12)
    assert batch.documents[:, 0].tolist() == [1, 3, 5]


def test_spread_takes_everything_where_there_is_no_more():
    assert taken(SpreadContexts(contexts(5), 1000)) == [0, 1, 2, 3, 4]


def test_spread_looks_no_further_than_told():
    assert taken(SpreadContexts(contexts(100), 8, look=3)) == [2, 5]


def test_spread_makes_batches_of_the_size_asked_for():
    sizes = [len(b.tokens) for b in SpreadContexts(contexts(20), 40, contexts_per_batch=4)]
    assert sizes == [4, 4, 2]


def test_spread_takes_nearly_all_where_there_is_little_more():
    assert len(taken(SpreadContexts(contexts(10), 36))) == 9
