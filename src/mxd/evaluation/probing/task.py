"""A probing task: labelled texts or tagged words, a split, and which tokens are looked at."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mxd.errors import UserError

Take = Literal["first", "last"]
Pool = Literal["mean", "last"]
SPLITS = ("train", "test")
LEAST_TRAINING_EXAMPLES = 20
PAPER_TEXTS = 10_000
"""What the reference caps every task at, both splits together."""
TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class Example:
    """A text with its label, or the words of a sentence with a tag each."""

    text: str
    """The text; for tagged words, these joined by spaces."""
    labels: tuple[str, ...]
    """One label for a text, one tag for each word."""
    split: str
    """`train` or `test`; empty before the task is split."""
    words: tuple[str, ...] = ()
    """The words that have tags; empty for a text."""
    document: str | None = None
    """What the example is a part of: the bootstrap draws whole documents."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to probe for."""

    name: str
    """Short name, for files."""
    source: str
    """File or data set that it was read from."""
    level: Literal["text", "token"]
    """Whether texts or words carry the labels."""
    examples: tuple[Example, ...]
    """Texts or sentences of both splits."""
    take: Take = "first"
    """Which end of a long text is read."""
    length: int = 127
    """Tokens read of each text, BOS not counted."""
    pool: Pool = "mean"
    """Value of a unit for a text: its mean over the tokens read, or that at the last token."""

    def labels(self, split: str) -> Counter[str]:
        """How many texts or words of a split carry each label."""
        return Counter(
            label for each in self.examples if each.split == split for label in each.labels
        )

    @property
    def rows(self) -> str:
        """What one example is called."""
        return "texts" if self.level == "text" else "sentences"


def split_by_class(examples: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """Put 80 % of each class in train and the rest in test, drawn with a seed.

    Sentences are split as a whole, and examples that name their document by whole documents, so
    that no document is on both sides; then classes have about their 80 %.
    """
    rng = np.random.default_rng(seed)
    if any(each.words or each.document is not None for each in examples):
        names = list(dict.fromkeys(_group(number, each) for number, each in enumerate(examples)))
        train = {names[i] for i in rng.permutation(len(names))[: _train_count(len(names))]}
        return tuple(
            replace(each, split="train" if _group(number, each) in train else "test")
            for number, each in enumerate(examples)
        )
    chosen: set[int] = set()
    for label in dict.fromkeys(each.labels[0] for each in examples):
        places = [n for n, each in enumerate(examples) if each.labels[0] == label]
        chosen.update(places[i] for i in rng.permutation(len(places))[: _train_count(len(places))])
    return tuple(
        replace(each, split="train" if number in chosen else "test")
        for number, each in enumerate(examples)
    )


def limited(examples: tuple[Example, ...], limit: int | None, seed: int) -> tuple[Example, ...]:
    """About `limit` examples in their order, the same share of each class of each split."""
    if limit is None or len(examples) <= limit:
        return examples
    rng = np.random.default_rng(seed)
    strata: dict[tuple[str, str], list[int]] = {}
    for number, each in enumerate(examples):
        label = "" if each.words else each.labels[0]
        strata.setdefault((each.split, label), []).append(number)
    kept: list[int] = []
    for places in strata.values():
        share = round(limit * len(places) / len(examples))
        kept += [places[i] for i in rng.permutation(len(places))[:share]]
    return tuple(examples[number] for number in sorted(kept))


def check_classes(task: Task) -> tuple[list[str], dict[str, int]]:
    """The classes to probe for, and those with too few training examples.

    Returns:
        Labels in alphabetical order; for tagged words, the tags left out with how many training
        examples they have (sentences cannot go without their rare tags; texts can).

    Raises:
        UserError: a single class, in all or to train on, or a class of texts with too few examples.
    """
    train, test = task.labels("train"), task.labels("test")
    names = sorted(train | test)
    if len(names) < 2:
        raise UserError(
            f"got the single class {', '.join(map(repr, names)) or 'none'} in {task.source}, "
            "expected at least two labels to tell apart; give a task with more"
        )
    few = {
        name: train[name]
        for name in names
        if train[name] < LEAST_TRAINING_EXAMPLES or not test[name]
    }
    if few and (task.level == "text" or len(few) == len(names)):
        name = min(few, key=few.__getitem__)
        raise UserError(
            f"got {train[name]} training and {test[name]} test examples of the class {name!r} in "
            f"{task.source}, expected at least {LEAST_TRAINING_EXAMPLES} and 1; add some, leave "
            "the class out, or raise the limit"
        )
    if sum(train[name] > 0 for name in names) < 2:
        raise UserError(
            f"got training examples of the single class {max(train)!r} in {task.source}, expected "
            "at least two labels to tell apart; mend the split"
        )
    return [name for name in names if name not in few], few


def clusters(examples: Iterable[Example]) -> list[str]:
    """What the bootstrap draws: an example's document, or the example itself."""
    return [_group(number, each) for number, each in enumerate(examples)]


def _group(number: int, example: Example) -> str:
    return f"row {number}" if example.document is None else f"document {example.document}"


def _train_count(total: int) -> int:
    return round(TRAIN_SHARE * total)
