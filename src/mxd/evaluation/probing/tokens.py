"""From labelled texts to token ids, and to the tokens whose values are probed."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64
from transformers import PreTrainedTokenizerBase

from mxd.data import Document
from mxd.data.tokenising import tokenise
from mxd.errors import UserError
from mxd.evaluation.probing.task import Example, Task, clusters

LEAST_TOKENS = 5
_CHARACTERS = 30_000
"""Far more than the tokens read of one text can hold: the rest is not tokenised."""
_GROUP = 256


@dataclass
class Rows:
    """What is probed: a row for each text, or for each tagged word."""

    token_ids: list[Int64[np.ndarray, "_"]] = field(default_factory=list)
    """Of each text, the tokens that are read, without BOS."""
    places: list[Int64[np.ndarray, "_"]] = field(default_factory=list)
    """Of each text, the tokens that count."""
    row_of: list[Int64[np.ndarray, "_"]] = field(default_factory=list)
    """The row that each of these belongs to; a row's value is the mean over its tokens."""
    labels: list[str] = field(default_factory=list)
    """Label of each row."""
    is_train: list[bool] = field(default_factory=list)
    """Whether a row is for training."""
    clusters: list[str] = field(default_factory=list)
    """What each row is a part of, for the bootstrap."""
    skipped_texts: int = 0
    """Texts with fewer than 5 tokens."""
    skipped_words: int = 0
    """Tagged words without a token, or behind the tokens that are read."""
    texts: dict[str, int] = field(default_factory=lambda: {"train": 0, "test": 0})
    """Texts or sentences that are read, by split."""

    def weights(self, text: int) -> Float64[np.ndarray, " entries"]:
        """How much each token that counts adds to its row: 1 / tokens of the row."""
        rows = self.row_of[text] - self.row_of[text].min()
        each: Float64[np.ndarray, " entries"] = 1.0 / np.bincount(rows)[rows]
        return each

    @property
    def training(self) -> Bool[np.ndarray, " rows"]:
        """Whether each row is for training."""
        return np.array(self.is_train, dtype=bool)


def tokenise_task(task: Task, tokenizer: PreTrainedTokenizerBase, longest: int) -> Rows:
    """The tokens of a task's texts, and which of them count for which row.

    Args:
        task: the task.
        tokenizer: the model's tokenizer.
        longest: most tokens to read of a text, whatever the task says (the model's positions).

    Raises:
        UserError: tagged words, and a tokenizer that cannot say where its tokens begin and end.
    """
    length = min(task.length, longest)
    rows = Rows()
    if task.level == "token":
        _add_sentences(rows, task, tokenizer, length)
    else:
        _add_texts(rows, task, tokenizer, length)
    return rows


def _add_texts(rows: Rows, task: Task, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    last = task.take == "last"
    cut = slice(-_CHARACTERS, None) if last else slice(_CHARACTERS)
    documents = (Document(str(n), each.text[cut]) for n, each in enumerate(task.examples))
    found = {int(piece.document.key): piece.token_ids for piece in tokenise(documents, tokenizer)}
    for number, (example, cluster) in enumerate(
        zip(task.examples, clusters(task.examples), strict=True)
    ):
        ids = found.get(number, np.zeros(0, dtype=np.int64))
        ids = ids[-length:] if last else ids[:length]
        if len(ids) < LEAST_TOKENS:
            rows.skipped_texts += 1
            continue
        places = np.arange(len(ids)) if task.pool == "mean" else np.array([len(ids) - 1])
        _add(rows, example, ids, places, np.full(len(places), len(rows.labels)))
        _label(rows, example, example.labels, cluster)


def _add_sentences(rows: Rows, task: Task, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    if not tokenizer.is_fast:
        raise UserError(
            f"got {type(tokenizer).__name__}, which does not say where its tokens begin and end, "
            "expected a fast tokenizer for tagged words; use one"
        )
    names = clusters(task.examples)
    for start in range(0, len(task.examples), _GROUP):
        group = task.examples[start : start + _GROUP]
        encoded = tokenizer(
            [example.text for example in group],
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        for number, (example, (ids, offsets)) in enumerate(zip(group, spans, strict=True)):
            kept = np.asarray(ids[:length], dtype=np.int64)
            last = last_tokens(example.words, offsets[:length])
            seen = [n for n, place in enumerate(last) if place is not None]
            rows.skipped_words += len(last) - len(seen)
            if not seen:
                rows.skipped_texts += 1
                continue
            places = np.array([place for place in last if place is not None])
            _add(rows, example, kept, places, len(rows.labels) + np.arange(len(seen)))
            labels = tuple(example.labels[n] for n in seen)
            _label(rows, example, labels, names[start + number])


def last_tokens(words: tuple[str, ...], offsets: list[tuple[int, int]]) -> list[int | None]:
    """The last token of each word of a sentence whose words are joined by spaces.

    It is the last token that covers the word's last character: bytes of one character share its
    place, and a token may begin with the space in front of the word.

    Args:
        words: the words.
        offsets: for each token read, the characters [start, end) that it stands for.

    Returns:
        Token by word; None for a word of white space, or one behind the tokens read.
    """
    covering = {
        character: token
        for token, (start, end) in enumerate(offsets)
        for character in range(start, end)
    }
    found, end = [], 0
    for word in words:
        end += len(word)
        # A token that is cut off by the limit may leave the word's end uncovered.
        found.append(covering.get(end - 1) if word.strip() else None)
        end += 1
    return found


def _add(
    rows: Rows,
    example: Example,
    ids: Int64[np.ndarray, " tokens"],
    places: Int64[np.ndarray, " entries"],
    row_of: Int64[np.ndarray, " entries"],
) -> None:
    rows.token_ids.append(ids)
    rows.places.append(places)
    rows.row_of.append(row_of)
    rows.texts[example.split] += 1


def _label(rows: Rows, example: Example, labels: tuple[str, ...], cluster: str) -> None:
    rows.labels += labels
    rows.is_train += [example.split == "train"] * len(labels)
    rows.clusters += [cluster] * len(labels)
