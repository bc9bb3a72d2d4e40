"""Which documents are trained on and which are kept for evaluation: never the same ones."""

from collections.abc import Iterator
from itertools import islice

from mxd.data import (
    Document,
    DocumentSource,
    document_keys,
    open_documents,
    split_documents,
    without_documents,
)
from mxd.training.recipe import TextRecipe

MAX_EVALUATION_DOCUMENTS = 20_000
"""Documents of an evaluation source that are looked at, so that a stream without end can be one."""


def training_documents(text: TextRecipe, seed: int) -> DocumentSource:
    """The documents to train on: the source without the part or the documents held out.

    Raises:
        UserError: a source cannot be read or holds no text.
    """
    source = open_documents(text.source, text.options)
    if text.eval_source is None:
        return split_documents(source, holdout=text.holdout, seed=split_seed(text, seed))[0]
    return without_documents(source, document_keys(evaluation_documents(text, seed)))


def evaluation_documents(text: TextRecipe, seed: int) -> DocumentSource:
    """The documents to evaluate on, none of which is trained on.

    Raises:
        UserError: a source cannot be read or holds no text.
    """
    if text.eval_source is None:
        return held_out_documents(open_documents(text.source, text.options), text, seed)
    return first_documents(open_documents(text.eval_source, text.options))


def held_out_documents(source: DocumentSource, text: TextRecipe, seed: int) -> DocumentSource:
    """The documents of a source that a training on it holds out.

    Args:
        source: documents that may be trained on.
        text: the text of the training.
        seed: the training's seed, for text without a seed of its own.
    """
    return split_documents(source, holdout=text.holdout, seed=split_seed(text, seed))[1]


def split_seed(text: TextRecipe, seed: int) -> int:
    """The seed of the choice of documents that are held out: the text's own, or the run's."""
    return seed if text.split_seed is None else text.split_seed


def first_documents(source: DocumentSource) -> DocumentSource:
    """At most the first `MAX_EVALUATION_DOCUMENTS` of a source."""

    def head() -> Iterator[Document]:
        return islice(iter(source), MAX_EVALUATION_DOCUMENTS)

    return DocumentSource(source.description, head)
