"""The judge without a network: planted concepts rank above mixtures, copies do not."""

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.evaluation._parts import text
from torch import nn

from mxd.demo import bundled_model
from mxd.errors import UserError
from mxd.evaluation.judging import OfflineJudge, reference_texts
from mxd.host import load_model, load_tokenizer

SHARED = Path(os.environ.get("MXD_SHARED", Path(__file__).parents[3] / "shared"))
CONCEPTS = {
    "sea": (
        "The ship left the harbour at dawn and met heavy waves.",
        "Sailors watched the waves from the deck of the ship.",
        "A storm at sea drove two boats back to the harbour.",
        "She loved the sea, its salt, its boats and its storms.",
        "Fishing boats crowd the harbour when the sea is rough.",
    ),
    "kitchen": (
        "Chop the onions and fry them in butter until soft.",
        "The cook stirred the soup and added salt and butter.",
        "Bake the bread in a hot oven for forty minutes.",
        "He kneaded the dough while the oven grew hot.",
        "A good soup begins with onions, butter and patience.",
    ),
    "court": (
        "The judge asked the jury to ignore the witness.",
        "His lawyer told the court that the witness had lied.",
        "The jury found her guilty after a short trial.",
        "A trial without a lawyer is no trial, the judge said.",
        "The court heard a third witness before the jury left.",
    ),
    "garden": (
        "Roses need sun, water and a rich soil.",
        "She planted tulips and roses along the garden wall.",
        "Water the seeds daily until the soil is green.",
        "The gardener cut the hedge and weeded the roses.",
        "Tulips bloom in spring when the garden soil warms.",
    ),
    "school": (
        "The teacher wrote the lesson on the board.",
        "Pupils forgot their homework and the teacher sighed.",
        "Every lesson ended with homework for all pupils.",
        "The school hired a new teacher for the younger class.",
        "Her class read the lesson aloud at school.",
    ),
}  # fmt: skip
OTHER = [
    f"{subject} {verb} {rest}."
    for subject, verb, rest in zip(
        ["The mayor", "A train", "My uncle", "The engine", "Winter", "The poet", "Her dog", "Rain"],
        ["opened", "crossed", "sold", "broke", "covered", "praised", "chased", "fell on"],
        ["a bridge in town", "the long valley", "an old clock", "on the hill", "every road",
         "the quiet moon", "three cats away", "the empty market"],
        strict=True,
    )
]  # fmt: skip


def mixtures(sets: list[tuple[str, ...]]) -> list[list[str]]:
    """The same sentences shuffled: each set has one of every concept."""
    return [[sets[(n + shift) % len(sets)][n] for n in range(5)] for shift in range(len(sets))]


@pytest.fixture(scope="module")
def real() -> tuple[Any, Any]:
    path = bundled_model("gpt2")
    return load_model(path), load_tokenizer(path)


@pytest.fixture(scope="module")
def offline(real: tuple[Any, Any]) -> OfflineJudge:
    return OfflineJudge(*real, OTHER, prompt="Let's talk about ")


def test_planted_concepts_rank_above_their_shuffled_mixtures(offline: OfflineJudge) -> None:
    planted = [*CONCEPTS.values()]
    on = [v.concept for v in offline.score(planted)]
    off = [v.concept for v in offline.score(mixtures(planted))]
    assert min(filter(None, on)) > max(value or 0 for value in off)
    assert all(0 <= value <= 1 for value in [*on, *off] if value is not None)


def test_copies_of_one_text_score_nothing_and_near_copies_little(offline: OfflineJudge) -> None:
    sentence = CONCEPTS["sea"][0]
    near = [sentence, f"{sentence} ", f"{sentence[:-1]}!", sentence, f"Well, {sentence}"]
    copies, alike, planted = offline.score([[sentence] * 5, near, CONCEPTS["sea"]])
    assert copies.concept == 0
    assert alike.concept is not None
    assert planted.concept is not None
    assert alike.concept < planted.concept


def test_fluency_falls_from_prose_to_shuffled_words_and_repetition(offline: OfflineJudge) -> None:
    prose = list(CONCEPTS["court"])
    draw = np.random.default_rng(0)
    shuffled = [" ".join(draw.permutation(sentence.split())) for sentence in prose]
    noise = ["".join(draw.permutation(list(sentence))) for sentence in prose]
    repeated = ["the same the same the same the same the same"] * 5
    scored = [v.fluency for v in offline.score([prose, shuffled, noise, repeated])]
    good, worse, worst, again = (value if value is not None else -1 for value in scored)
    assert good > worse >= worst >= 0
    assert again < 0.3


def test_fluency_is_the_share_of_reference_that_is_no_likelier(
    real: tuple[Any, Any], offline: OfflineJudge
) -> None:
    """Against one text at a time, without padding."""
    model, tokenizer = real

    def surprise(sample: str) -> float:
        begin = tokenizer("Let's talk about ", add_special_tokens=False).input_ids
        if tokenizer.bos_token_id is not None:
            begin = [tokenizer.bos_token_id, *begin]
        own = tokenizer(sample, add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([begin + own])).logits[0].double()
        logp = logits.log_softmax(-1).numpy()
        return float(-np.mean([logp[len(begin) + n - 1, token] for n, token in enumerate(own)]))

    natural = np.array([surprise(piece) for piece in OTHER])
    samples = [*CONCEPTS["sea"], "a b a b a b"]
    expected = []
    for sample in samples:
        pairs = list(pairwise(sample.lower().split()))
        share = np.mean(natural >= surprise(sample) - 1e-4)
        expected.append(share * len(set(pairs)) / len(pairs))
    (verdict,) = offline.score([samples])
    assert verdict.fluency == pytest.approx(np.mean(expected), abs=1e-6)


def test_one_sample_or_empty_ones_are_no_reason_to_fail(offline: OfflineJudge) -> None:
    single, empty = offline.score([["The sea."], ["", "", ""]])
    assert (single.concept, "needs two" in str(single.failure)) == (None, True)
    assert (empty.concept, empty.fluency) == (0, 0)
    assert offline.score([]) == []


def test_too_little_reference_is_refused(model: nn.Module, tokenizer) -> None:
    with pytest.raises(UserError, match="got 3 pieces of reference text"):
        OfflineJudge(model, tokenizer, ["w3", "w4", "w5"])


def test_reference_is_cut_from_the_middle_of_contexts(tokenizer) -> None:
    contexts = text()
    pieces = reference_texts(contexts, tokenizer, length=4, count=3)
    assert len(pieces) == 3
    assert pieces[0] == tokenizer.decode(contexts[0].tokens[0, 2:6])
    whole = reference_texts(contexts, tokenizer, length=100)
    assert whole[0] == tokenizer.decode(contexts[0].tokens[0, 1:], skip_special_tokens=True)
    assert len(whole) == 6


@pytest.mark.shared
def test_news_of_one_topic_ranks_above_mixed_news(real: tuple[Any, Any]) -> None:
    path = SHARED / "data" / "probes" / "ag_news.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no shared data at {path}; set MXD_SHARED to the folder that holds it")
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        records = [json.loads(line) for _, line in zip(range(364), file, strict=False)]
    by_label: dict[str, list[str]] = {}
    for record in records[:300]:
        by_label.setdefault(str(record["label"]), []).append(record["text"][:160])
    reference = [record["text"][:160] for record in records[300:]]
    judge = OfflineJudge(*real, reference)
    least = min(len(of) for of in by_label.values()) // 10
    on = [of[10 * n : 10 * n + 10] for of in by_label.values() for n in range(least)]
    everything = [one for of in on for one in of]
    mixed = np.random.default_rng(0).permutation(len(everything)).reshape(-1, 10)
    off = [[everything[n] for n in row] for row in mixed]
    planted = np.array([v.concept for v in judge.score(on)])
    shuffled = np.array([v.concept for v in judge.score(off)])
    auc = np.mean(planted[:, None] > shuffled[None]) + 0.5 * np.mean(
        planted[:, None] == shuffled[None]
    )
    assert auc > 0.65  # topics are broad and the model is small; chance is 0.5
