"""Sampling by hand: the same distribution as `generate`, whatever else is in the batch."""

from collections import Counter

import numpy as np
import pytest
import torch
from tests.evaluation._parts import SITE, random_layer
from tests.helpers.tiny_models import VOCABULARY, tiny_model
from torch import nn
from transformers import LogitsProcessorList

from mxd.errors import UserError
from mxd.evaluation.steering import (
    FrequencyPenalty,
    Sampling,
    Steered,
    SteeredRows,
    Strength,
    random_rows,
    sample,
    uniform_draws,
)
from mxd.evaluation.steering.results import distinct
from mxd.evaluation.steering.sampling import encode_prompt
from mxd.layers import MxD, SparseLayer

SPARSE = ["mxd", "transcoder", "skip_transcoder", "topk_autoencoder", "mlp_transcoder"]
PROMPT = torch.tensor([0, 5, 9])


def draws(rows: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(
        rows, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_frequency_penalty_counts_what_was_written_and_not_the_prompt() -> None:
    ids = torch.tensor([[7, 7, 3, 4, 4], [7, 7, 1, 2, 9]])
    scores = torch.randn(2, 10)
    expected = scores.numpy().astype(np.float64)
    for row, written in enumerate(ids[:, 2:].tolist()):
        for token, count in Counter(written).items():
            expected[row, token] -= 0.7 * count
    found = FrequencyPenalty(0.7, prompt_length=2)(ids, scores)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 1.5])
def test_most_likely_text_is_that_of_generate(model: nn.Module, penalty: float) -> None:
    sampling = Sampling(top_p=1e-6, frequency_penalty=penalty, max_new_tokens=20)
    ours = sample(model, PROMPT, draws(1, 20), sampling)
    theirs = model.generate(
        PROMPT[None], attention_mask=torch.ones(1, 3, dtype=torch.long), do_sample=False,
        max_new_tokens=20, eos_token_id=None, pad_token_id=0,
        logits_processor=LogitsProcessorList([FrequencyPenalty(penalty, 3)]),
    )[:, 3:]  # fmt: skip
    assert ours.tolist() == theirs.tolist()
    assert (len(set(ours[0].tolist())) > 10) == (penalty > 0) or penalty == 0


def test_frequencies_are_the_probabilities_of_generate(model: nn.Module) -> None:
    """Both samplers against the distribution computed by hand, for the first token."""
    sampling = Sampling(temperature=1.7, top_p=0.8, frequency_penalty=0.0)
    with torch.no_grad():
        logits = model(PROMPT[None]).logits[0, -1].double().numpy() / 1.7
    p = np.exp(logits - logits.max())
    p /= p.sum()
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), 0.8)) + 1]
    expected = np.zeros(VOCABULARY)
    expected[kept] = p[kept] / p[kept].sum()
    even = (torch.arange(4000, dtype=torch.float64)[:, None] + 0.5) / 4000
    ours = sample(model, PROMPT, even, sampling).flatten()
    found = np.bincount(ours.numpy(), minlength=VOCABULARY) / 4000
    np.testing.assert_allclose(found, expected, atol=1 / 2000)  # even draws leave no luck
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = model.generate(
            PROMPT.expand(4000, -1), attention_mask=torch.ones(4000, 3, dtype=torch.long),
            do_sample=True, temperature=1.7, top_p=0.8, top_k=0, max_new_tokens=1,
            eos_token_id=None, pad_token_id=0,
        )[:, 3]  # fmt: skip
    often = np.bincount(theirs.numpy(), minlength=VOCABULARY) / 4000
    np.testing.assert_allclose(often, expected, atol=0.03)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "opt", "bloom"])
def test_text_of_a_row_does_not_depend_on_the_batch(arch: str) -> None:
    model = tiny_model(arch).double()
    sampling = Sampling(top_p=0.9, temperature=2.0)
    many = draws(7, 6)
    together = sample(model, PROMPT, many, sampling)
    alone = torch.cat([sample(model, PROMPT, row[None], sampling) for row in many])
    assert together.tolist() == alone.tolist()
    assert len({tuple(row) for row in together.tolist()}) > 1


def test_cache_of_keys_and_values_changes_nothing(model: nn.Module) -> None:
    class WithoutCache(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.double()

        def forward(self, input_ids: torch.Tensor, **kwargs: object) -> object:
            from types import SimpleNamespace

            return SimpleNamespace(logits=self.inner(input_ids).logits)

    double = tiny_model("gpt2").double()
    try:
        sampling = Sampling(top_p=0.9, temperature=2.0)
        plain = sample(WithoutCache(), PROMPT, draws(3, 8), sampling)
        assert plain.tolist() == sample(double, PROMPT, draws(3, 8), sampling).tolist()
    finally:
        model.float()


def test_draws_repeat_with_their_seed() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = uniform_draws(Sampling(samples=3, seed=1))
    assert torch.equal(first, uniform_draws(Sampling(samples=3, seed=1)))
    assert not torch.equal(first, uniform_draws(Sampling(samples=3, seed=2)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.shape == (3, 32)
    assert len(set(first.flatten().tolist())) == 96


@pytest.mark.parametrize("architecture", SPARSE)
def test_each_row_is_steered_as_alone(architecture: str) -> None:
    layer = random_layer(architecture).double()
    assert isinstance(layer, SparseLayer)
    units, strengths = [4, 0, 19], torch.tensor([3.0, 0.0, -2.0])
    x = torch.randn(3, 5, 32, dtype=torch.float64)
    together = SteeredRows(layer, layer.unit_rows[units], strengths)
    for row, (unit, strength) in enumerate(zip(units, strengths.tolist(), strict=True)):
        torch.testing.assert_close(together(x)[row], Steered(layer, unit, strength)(x[row]))
    torch.testing.assert_close(together(x).flatten(0, 1), together(x.flatten(0, 1)))
    torch.testing.assert_close(together(x)[1], layer(x[1]))


def test_random_direction_multiplies_the_dense_branch_of_an_mxd() -> None:
    layer = random_layer("mxd").double()
    assert isinstance(layer, MxD)
    (row,) = random_rows(layer, [3], seed=1)
    x = torch.randn(1, 4, 32, dtype=torch.float64)
    found = SteeredRows(layer, row[None], torch.tensor([2.0]))(x) - layer(x)
    torch.testing.assert_close(found, 2 * row * layer.dense_branch(x))


def test_random_directions_have_the_norm_of_their_unit_and_belong_to_it() -> None:
    layer = random_layer("transcoder")
    assert isinstance(layer, SparseLayer)
    rows = random_rows(layer, [3, 7, 11], seed=1)
    torch.testing.assert_close(rows.norm(dim=1), layer.unit_rows[[3, 7, 11]].norm(dim=1))
    assert torch.equal(rows[1:], random_rows(layer, [7, 11], seed=1))
    assert not torch.allclose(rows, random_rows(layer, [3, 7, 11], seed=2))
    cosines = torch.cosine_similarity(rows, layer.unit_rows[[3, 7, 11]])
    assert cosines.abs().max() < 0.7


def test_distinct_n_of_known_sets() -> None:
    rows = [[1, 2, 1, 2], [1, 2, 3, 3]]
    assert distinct(rows, 1) == 3 / 8
    assert distinct(rows, 2) == 4 / 6  # 12, 21, 23, 33
    assert distinct([[]], 1) == distinct([[5]], 2) == 0


@pytest.mark.parametrize(
    ("text", "strength", "added"),
    [("100", Strength(100.0), 100.0), ("4x", Strength(4.0, "max"), 10.0), ("-2.5x", None, -6.25)],
)
def test_strength_is_a_number_or_a_multiple(
    text: str, strength: Strength | None, added: float
) -> None:
    found = Strength.parse(text)
    assert strength in (None, found)
    assert found.of(2.5) == added
    assert str(found) == text


@pytest.mark.parametrize("text", ["", "x", "nan", "infx", "4y", "4 x x"])
def test_strength_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a number such as 100"):
        Strength.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [{"samples": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0},
     {"frequency_penalty": float("nan")}],
)  # fmt: skip
def test_sampling_of_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"got {next(iter(wrong))} "):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_prompt_that_leaves_no_room_is_refused(model: nn.Module, tokenizer) -> None:
    with pytest.raises(UserError, match="at most 64 in all"):
        encode_prompt(model, tokenizer, "w3 " * 40, room=32)
    with pytest.raises(UserError, match="no UTF-8"):
        encode_prompt(model, tokenizer, "w3 \udcff", room=32)
    assert encode_prompt(model, tokenizer, "w3 w4", room=32).tolist() == [0, 3, 4]


def test_layer_site_is_steered_within_the_model(model: nn.Module) -> None:
    """A row grafted with strength 0 writes what the layer writes."""
    from mxd.host import graft

    layer = random_layer("mxd")
    assert isinstance(layer, SparseLayer)
    sampling = Sampling(max_new_tokens=8)
    with graft(model, {SITE: layer}):
        plain = sample(model, PROMPT, draws(2, 8), sampling)
    rows = SteeredRows(layer, layer.unit_rows[[1, 2]], torch.tensor([0.0, 500.0]))
    with graft(model, {SITE: rows}):
        steered = sample(model, PROMPT, draws(2, 8), sampling)
    assert steered[0].tolist() == plain[0].tolist()
    assert steered[1].tolist() != plain[1].tolist()
