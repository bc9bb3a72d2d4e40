import itertools
import logging
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxd.data import ActivationStream, Contexts, regroup
from mxd.errors import UserError

LENGTH = 8


def numbered(contexts, per_batch=3):
    """Contexts in which every token has an id of its own."""
    tokens = torch.arange(contexts * LENGTH).reshape(contexts, LENGTH)
    return [
        Contexts(part, torch.zeros_like(part, dtype=torch.int32))
        for part in tokens.split(per_batch)
    ]


def tagging(tokens):
    """A model whose activations name their token."""
    x = tokens.float()[..., None].expand(*tokens.shape, 2)
    return {"a": (x, -x), "b": (x[..., :1], x.repeat(1, 1, 2))}


def stream(contexts, **options):
    defaults = {
        "harvest": tagging,
        "contexts": contexts,
        "batch_tokens": 10,
        "buffer_tokens": 40,
        "harvest_contexts": 2,
        "on_exhausted": "stop",
        "seed": 0,
    }
    return ActivationStream(**{**defaults, **options})


@settings(max_examples=80, deadline=None)
@given(
    contexts=st.integers(3, 40),
    per_batch=st.integers(1, 7),
    harvest_contexts=st.integers(1, 9),
    batch_tokens=st.integers(1, 24),
    extra=st.integers(0, 60),
    refill=st.floats(0.01, 1.0),
    excluded=st.sets(st.integers(0, 10), max_size=4),
)
def test_every_token_is_served_exactly_once(
    contexts, per_batch, harvest_contexts, batch_tokens, extra, refill, excluded
):
    batches = list(
        stream(
            numbered(contexts, per_batch),
            harvest_contexts=harvest_contexts,
            batch_tokens=min(batch_tokens, contexts * LENGTH - len(excluded)),
            buffer_tokens=batch_tokens + extra,
            refill=refill,
            excluded_token_ids=tuple(excluded),
        )
    )
    ids = torch.cat([batch.token_ids for batch in batches])
    assert sorted(ids.tolist()) == sorted(set(range(contexts * LENGTH)) - excluded)
    for batch in batches:
        x, y = batch.sites["a"]
        assert torch.equal(x[:, 0].long(), batch.token_ids)
        assert torch.equal(x, -y)
        assert batch.sites["b"][1].shape == (len(batch.token_ids), 4)
    assert all(len(batch.token_ids) == len(batches[0].token_ids) for batch in batches[:-1])
    assert batches[-1].tokens == len(ids)


def test_order_is_shuffled_across_contexts():
    ids = next(iter(stream(numbered(20)))).token_ids
    assert len(set((ids // LENGTH).tolist())) > 2
    assert ids.tolist() != sorted(ids.tolist())


def test_same_seed_gives_the_same_batches_whatever_the_global_state():
    def run(seed):
        torch.manual_seed(torch.seed())
        return [(b.token_ids, *b.sites["a"]) for b in stream(numbered(20), seed=seed)]

    first, second, other = run(3), run(3), run(4)
    for one, two in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


def test_stream_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    list(stream(numbered(10)))
    assert torch.equal(before, torch.get_rng_state())


def test_repeat_begins_another_epoch_and_says_so(caplog):
    repeating = stream(numbered(6), on_exhausted="repeat", buffer_tokens=20)
    with caplog.at_level(logging.WARNING):
        served = [b.token_ids for b in itertools.islice(repeating, 20)]
    assert "used up after 48 tokens: epoch 2 begins" in caplog.text
    assert repeating.epoch > 2
    counts = Counter(torch.cat(served).tolist())
    # Of E epochs harvested, only what the buffer still holds may be missing.
    assert set(counts) == set(range(48))
    assert max(counts.values()) - min(counts.values()) <= 2


def test_stop_says_so(caplog):
    with caplog.at_level(logging.INFO):
        assert sum(len(b.token_ids) for b in stream(numbered(6))) == 48
    assert "used up after 48 tokens: the stream ends" in caplog.text


def test_max_tokens_limits_serving_harvesting_and_memory():
    passes = []

    def counting(tokens):
        passes.append(tokens.numel())
        return tagging(tokens)

    limited = stream(numbered(100), harvest=counting, max_tokens=55, buffer_tokens=400)
    batches = list(limited)
    assert [batch.tokens for batch in batches] == [10, 20, 30, 40, 50, 60]
    assert limited.capacity == 60
    assert sum(passes) == 64
    small = stream(numbered(100), harvest=counting, max_tokens=205)
    assert sum(len(batch.token_ids) for batch in small) == 210
    assert small.capacity == 40


def test_max_tokens_goes_over_several_epochs():
    assert (
        sum(len(b.token_ids) for b in stream(numbered(5), on_exhausted="repeat", max_tokens=1000))
        == 1000
    )


def test_buffer_is_allocated_once():
    running = stream(numbered(60), buffer_tokens=80)
    places = {
        x.untyped_storage().data_ptr() for pair in running.first_buffer().values() for x in pair
    }
    for _ in running:
        now = {
            x.untyped_storage().data_ptr() for pair in running.first_buffer().values() for x in pair
        }
        assert now == places
    assert running.first_buffer()["a"][0].shape == (80, 2)


def test_first_buffer_serves_nothing():
    plain = [batch.token_ids for batch in stream(numbered(20))]
    peeked = stream(numbered(20))
    x, y = peeked.first_buffer()["a"]
    assert x.shape == y.shape == (40, 2)
    assert torch.equal(x[:, 0], torch.arange(40.0))
    again = [batch.token_ids for batch in peeked]
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_first_buffer_of_a_short_text_is_its_filled_part():
    assert stream(numbered(3)).first_buffer()["a"][0].shape == (24, 2)


def test_iterating_after_a_break_goes_on():
    whole = [batch.token_ids for batch in stream(numbered(20))]
    parts = stream(numbered(20))
    first = list(itertools.islice(parts, 3))
    rest = list(parts)
    assert torch.equal(torch.cat([b.token_ids for b in first + rest]), torch.cat(whole))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_kept_in_the_asked_dtype(dtype):
    batch = next(iter(stream(numbered(20), dtype=dtype)))
    assert {x.dtype for pair in batch.sites.values() for x in pair} == {dtype}
    assert batch.token_ids.dtype == torch.int64


def test_gradients_of_the_model_are_not_kept():
    def harvest(tokens):
        x = tokens.float()[..., None].requires_grad_()
        return {"a": (x, x * 2)}

    assert not next(iter(stream(numbered(20), harvest=harvest))).sites["a"][1].requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_activations_that_are_not_finite_are_a_users_error(bad, side):
    def harvest(tokens):
        sites = {name: tuple(t.clone() for t in pair) for name, pair in tagging(tokens).items()}
        if 70 in tokens:
            sites["b"][side][0, 0, 0] = bad
        return sites

    message = r"NaN or infinite activations at site b in batch 5, expected"
    with pytest.raises(UserError, match=message):
        list(stream(numbered(20), harvest=harvest))


def test_huge_activations_that_are_finite_are_served():
    def harvest(tokens):
        x = torch.full((*tokens.shape, 2), 3e38)
        return {"a": (x, x)}

    assert sum(len(b.token_ids) for b in stream(numbered(3), harvest=harvest)) == 24


def test_excluded_tokens_may_be_infinite():
    def harvest(tokens):
        x = tokens.float()[..., None].masked_fill(tokens[..., None] == 0, float("inf"))
        return {"a": (x, x)}

    assert (
        sum(len(b.token_ids) for b in stream(numbered(3), harvest=harvest, excluded_token_ids=(0,)))
        == 23
    )


@pytest.mark.parametrize("on_exhausted", ["stop", "repeat"])
def test_too_little_text_is_a_users_error(on_exhausted):
    short = stream(numbered(1), on_exhausted=on_exhausted, excluded_token_ids=range(3))
    message = r"got 5 tokens of text in an epoch \(3 more are excluded\), expected at least the 10"
    with pytest.raises(UserError, match=message):
        next(iter(short))


def test_contexts_that_cannot_be_read_again_are_a_users_error():
    with pytest.raises(UserError, match="got 0 tokens of text in an epoch"):
        list(stream(iter(numbered(6)), on_exhausted="repeat"))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_tokens": 0},
        {"harvest_contexts": 0},
        {"max_tokens": 0},
        {"buffer_tokens": 9},
        {"refill": 0.0},
        {"refill": 1.5},
    ],
)
def test_argument_out_of_range_is_a_users_error(options):
    name, value = next(iter(options.items()))
    with pytest.raises(UserError, match=f"got {name}={value!r}, expected"):
        stream(numbered(3), **options)


def test_unknown_end_of_text_is_refused():
    # Under pytest the run-time check of types comes before the library's own.
    with pytest.raises((UserError, TypeError), match="on_exhausted"):
        stream(numbered(3), on_exhausted="wait")


def test_fingerprint_follows_the_tokens_and_not_the_grouping():
    def fingerprint(contexts, **options):
        running = stream(contexts, **options)
        list(running)
        return running.fingerprint

    first = fingerprint(numbered(20))
    assert first == fingerprint(numbered(20, per_batch=5), harvest_contexts=7, seed=9)
    changed = numbered(20)
    changed[-1].tokens[-1, -1] = 0
    assert first != fingerprint(changed)
    assert len(first) == 64


@given(sizes=st.lists(st.integers(0, 9), max_size=12), size=st.integers(1, 8))
def test_regrouping_keeps_all_contexts_in_order(sizes, size):
    tokens = torch.arange(sum(sizes) * 2).reshape(-1, 2)
    batches = [Contexts(part, part.int()) for part in tokens.split(sizes)] if sizes else []
    grouped = [group for group, _ in regroup(batches, size)]
    assert all(len(group) == size for group in grouped[:-1])
    assert all(0 < len(group) <= size for group in grouped[-1:])
    assert torch.equal(torch.cat([*grouped, tokens[:0]]), tokens)
