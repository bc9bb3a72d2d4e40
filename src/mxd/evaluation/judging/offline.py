"""A judge that needs no network: the base model's perplexity, and what samples have in common."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import CountVectorizer
from transformers import PreTrainedTokenizerBase

from mxd.data import Contexts
from mxd.errors import UserError
from mxd.evaluation.judging._reading import TextReader
from mxd.evaluation.judging.verdict import Usage, Verdict

_FEWEST = 8
"""Pieces of reference text without which shares and centres mean nothing."""
_MIXTURE = 32
"""Pieces of reference text that stand for unrelated samples."""


class OfflineJudge:
    """Scores by figures instead of by reading; weaker than a language-model judge.

    Fluency of a sample is the share of pieces of reference text of which the base model finds a
    token no likelier than one of the sample, times the share of its word pairs that are distinct
    (repetition is likely and not fluent). A set has the mean.

    Concept is the mean similarity of two samples of a set: the mean of the cosine of their TF-IDF
    vectors and that of their mean hidden states in the base model, less what pieces of reference
    text reach among each other, over what is left up to 1. A pair counts in proportion to the word
    pairs it does not share: ten copies of one text show no more than that text, and score 0.
    Document frequencies and the centre of hidden states come from reference text and background,
    so words that the model writes in any case count little.

    Args:
        model: the base model, without layers in place when it is asked.
        tokenizer: its tokenizer.
        reference: pieces of natural text about as long as the samples.
        background: samples without steering.
        prompt: what samples and pieces are read after.

    Raises:
        UserError: too little reference text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        reference: Sequence[str],
        *,
        background: Sequence[str] = (),
        prompt: str = "Let's talk about ",
    ) -> None:
        if len(reference) < _FEWEST:
            raise UserError(
                f"got {len(reference)} pieces of reference text for the offline judge, expected "
                f"{_FEWEST} or more; give it more held-out text"
            )
        self.name, self.usage = "offline", Usage()
        self._words = CountVectorizer(token_pattern=r"(?u)\b\w+\b", stop_words="english")
        self._analyse = self._words.build_analyzer()
        known = [*reference, *background]
        self._documents = len(known)
        self._frequency = Counter(word for text in known for word in set(self._analyse(text)))
        self._reader = TextReader(model, tokenizer, prompt)
        read = self._reader.read(known)
        self._natural = np.sort(read.surprise[: len(reference)])
        self._centre = read.state.mean(0)
        some = slice(0, min(_MIXTURE, len(reference)))
        self._chance = [
            float(similarity[np.triu_indices(len(similarity), 1)].mean())
            for similarity in self._similarities(reference[some], read.state[some])
        ]

    def score(self, sets: Sequence[Sequence[str]]) -> list[Verdict]:
        """A verdict for each set of two samples or more."""
        read = self._reader.read([text for samples in sets for text in samples])
        verdicts, start = [], 0
        for samples in sets:
            part = slice(start, start + len(samples))
            start += len(samples)
            verdicts.append(self._verdict(samples, read.surprise[part], read.state[part]))
        self.usage.verdicts += len(verdicts)
        self.usage.failed += sum(verdict.failure is not None for verdict in verdicts)
        return verdicts

    def _verdict(
        self,
        samples: Sequence[str],
        surprise: Float[np.ndarray, "texts"],
        state: Float[np.ndarray, "texts d"],
    ) -> Verdict:
        if len(samples) < 2:
            return Verdict(failure="one sample alone shares nothing; the judge needs two")
        below = np.searchsorted(self._natural, surprise, side="left")
        as_likely = 1 - below / len(self._natural)
        varied = np.array([_distinct_share(_pairs(text)) for text in samples])
        return Verdict(self._concept(samples, state), float((as_likely * varied).mean()))

    def _concept(self, samples: Sequence[str], state: Float[np.ndarray, "texts d"]) -> float:
        rows, columns = np.triu_indices(len(samples), 1)
        fresh = 1 - _overlaps(samples)[rows, columns]
        parts = []
        for similarity, chance in zip(
            self._similarities(samples, state), self._chance, strict=True
        ):
            above = (similarity[rows, columns] - chance) / (1 - min(chance, 0.99))
            parts.append(float((fresh * above).mean()))
        return min(1.0, max(0.0, float(np.mean(parts))))

    def _similarities(
        self, samples: Sequence[str], state: Float[np.ndarray, "texts d"]
    ) -> list[Float[np.ndarray, "texts texts"]]:
        return [_cosines(self._tf_idf(samples)), _cosines(state - self._centre)]

    def _tf_idf(self, samples: Sequence[str]) -> Float[np.ndarray, "texts words"]:
        counts = [Counter(self._analyse(text)) for text in samples]
        words = sorted(set().union(*counts))
        table = np.array([[count[word] for word in words] for count in counts], dtype=float)
        rarity = [np.log((1 + self._documents) / (1 + self._frequency[word])) for word in words]
        weighted: np.ndarray = np.log1p(table.reshape(len(samples), len(words))) * np.array(rarity)
        return weighted


def reference_texts(
    contexts: Iterable[Contexts],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int = 32,
    count: int = 256,
) -> list[str]:
    """Pieces of natural text, one from the middle of each context.

    Args:
        contexts: held-out text.
        tokenizer: the model's tokenizer.
        length: tokens of a piece; shorter where the contexts are.
        count: how many, at most.
    """
    found: list[str] = []
    for batch in contexts:
        size = batch.tokens.shape[1]
        taken = min(length, size - 1)  # BOS, in front, is no text
        start = (size - taken + 1) // 2
        for row in batch.tokens[:, start : start + taken].tolist():
            found.append(str(tokenizer.decode(row, skip_special_tokens=True)))
            if len(found) == count:
                return found
    return found


def _pairs(text: str) -> list[tuple[str, str]]:
    return list(pairwise(text.lower().split()))


def _distinct_share(pairs: list[tuple[str, str]]) -> float:
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def _overlaps(samples: Sequence[str]) -> Float[np.ndarray, "texts texts"]:
    """Jaccard index of the word pairs of every two samples; 1 for two that are the same."""
    sets = [set(_pairs(text)) or {(text, "")} for text in samples]
    return np.array([[len(a & b) / len(a | b) for b in sets] for a in sets])


def _cosines(rows: Float[np.ndarray, "texts d"]) -> Float[np.ndarray, "texts texts"]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return np.asarray(unit @ unit.T)
