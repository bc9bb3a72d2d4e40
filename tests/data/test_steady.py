"""The order in which a stream serves, and how evenly it harvests, against a plain version of it."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.test_stream import LENGTH, numbered, stream

from mxd.data import ActivationStream
from mxd.data.buffer import RowBuffer, Rows


def plain_order(
    tokens: int,
    *,
    batch: int,
    capacity: int,
    refill: float,
    seed: int,
    excluded: set[int],
    budget: int | None,
    repeat: bool,
    batches: int,
) -> list[list[int]]:
    """Ids of each batch: half of the buffer is served, then half of it is filled at once."""
    epoch = [i for i in range(tokens) if i not in excluded]
    incoming = itertools.cycle(epoch) if repeat else iter(epoch)
    if budget is not None:
        budget = -(-budget // batch) * batch
        capacity, incoming = min(capacity, budget), itertools.islice(incoming, budget)
    generator = torch.Generator().manual_seed(seed)
    buffer = list(itertools.islice(incoming, capacity))
    live, last_round, served = list(range(len(buffer))), len(buffer) < capacity, []
    while live:
        order = [live[i] for i in torch.randperm(len(live), generator=generator).tolist()]
        quota = len(order) if last_round else max(1, int(capacity * refill) // batch) * batch
        for start in range(0, quota, batch):
            served.append([buffer[slot] for slot in order[start : min(start + batch, quota)]])
            if len(served) == batches:
                return served
        new = list(itertools.islice(incoming, quota))
        for slot, row in zip(order, new, strict=False):
            buffer[slot] = row
        live, last_round = order[quota:] + order[: len(new)], len(new) < quota
    return served


@settings(max_examples=120, deadline=None)
@given(
    contexts=st.integers(3, 30),
    per_batch=st.integers(1, 7),
    harvest_contexts=st.integers(1, 9),
    batch=st.integers(1, 20),
    extra=st.integers(0, 60),
    refill=st.floats(0.01, 1.0),
    excluded=st.sets(st.integers(0, 10), max_size=4),
    budget=st.none() | st.integers(1, 400),
    repeat=st.booleans(),
    prefetch=st.sampled_from([0, 0, 1, 3]),
    seed=st.integers(0, 5),
)
def test_batches_are_those_of_filling_half_a_buffer_at_once(
    contexts, per_batch, harvest_contexts, batch, extra, refill, excluded, budget, repeat,
    prefetch, seed,
):  # fmt: skip
    batch = min(batch, contexts * LENGTH - len(excluded))
    running = stream(
        numbered(contexts, per_batch),
        harvest_contexts=harvest_contexts,
        batch_tokens=batch,
        buffer_tokens=batch + extra,
        refill=refill,
        excluded_token_ids=tuple(excluded),
        max_tokens=budget,
        on_exhausted="repeat" if repeat else "stop",
        prefetch=prefetch,
        seed=seed,
    )
    wanted = plain_order(
        contexts * LENGTH, batch=batch, capacity=batch + extra, refill=refill, seed=seed,
        excluded=excluded, budget=budget, repeat=repeat, batches=30,
    )  # fmt: skip
    served = [b.token_ids.tolist() for b in itertools.islice(running, 30)]
    running.close()
    assert served == wanted


def test_harvest_is_spread_over_the_batches():
    passes: list[int] = []

    def counting(tokens):
        passes.append(1)
        return {"a": (tokens.float()[..., None], tokens.float()[..., None])}

    running = stream(numbered(100), harvest=counting, batch_tokens=16, buffer_tokens=160)
    running.first_buffer()
    made = [len(passes) for _ in itertools.islice(running, 30)]
    # A batch of 16 tokens takes the two contexts of 8 of one pass, and no batch takes two.
    assert {b - a for a, b in itertools.pairwise(made)} == {1}


def _record(prefetch: int, **options) -> list[tuple[str, int]]:
    running: ActivationStream = stream(numbered(12), prefetch=prefetch, **options)
    found = [(running.fingerprint, running.epoch) for _ in running]
    running.close()
    return [*found, (running.fingerprint, running.epoch)]


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 55, "buffer_tokens": 20},
        {"max_tokens": 333, "on_exhausted": "repeat"},
        {"excluded_token_ids": tuple(range(24))},
        {},
    ],
)
def test_fingerprint_and_epoch_are_those_of_what_was_taken(options):
    alone = _record(0, **options)
    for ahead in (1, 2, 5):
        assert _record(ahead, **options) == alone
    assert len({fingerprint for fingerprint, _ in alone}) > 2


def test_order_is_sent_to_the_buffer_once_in_a_round(monkeypatch):
    sent, original = [], RowBuffer.slots

    def noting(self, numbers):
        sent.append(len(numbers))
        return original(self, numbers)

    monkeypatch.setattr(RowBuffer, "slots", noting)
    running = stream(numbered(100), batch_tokens=16, buffer_tokens=160)
    assert len(list(itertools.islice(running, 15))) == 15
    assert sent == [160, 160, 160, 160]  # the first filling, and rounds of five batches


def test_token_ids_stay_in_cpu_memory_wherever_the_buffer_is():
    buffer = RowBuffer(4, torch.device("meta"), torch.float32)
    slots = buffer.slots(torch.tensor([2, 0, 3]))
    x = torch.ones(3, 2)
    buffer.write(slots, Rows({"a": (x, x)}, torch.tensor([7, 8, 9])))
    rows = buffer.read(slots.slice(1, 3))
    assert rows.sites["a"][0].device.type == "meta"
    assert rows.token_ids.tolist() == [8, 9]


def test_nothing_is_harvested_beyond_the_budget():
    passes: list[int] = []

    def counting(tokens):
        passes.append(tokens.numel())
        return {"a": (tokens.float()[..., None], tokens.float()[..., None])}

    running = stream(numbered(100), harvest=counting, max_tokens=55, prefetch=4)
    assert [batch.tokens for batch in running] == [10, 20, 30, 40, 50, 60]
    running.close()
    assert sum(passes) == 64
