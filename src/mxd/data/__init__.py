"""Text sources, contexts of tokens, and the shuffled stream of activations."""

from mxd.data.buffer import SiteActivations
from mxd.data.documents import Document, DocumentSource, document_keys
from mxd.data.harvest import Harvest, regroup
from mxd.data.packing import ContextOptions, Contexts, PackedContexts, pack
from mxd.data.sources import PYTHON_STDLIB, open_documents
from mxd.data.special_tokens import ExclusionOptions, special_token_ids
from mxd.data.split import split_documents, without_documents
from mxd.data.spread import SpreadContexts
from mxd.data.stdlib import python_stdlib_documents
from mxd.data.stream import ActivationBatch, ActivationStream
from mxd.data.text_options import TextOptions

__all__ = [
    "PYTHON_STDLIB",
    "ActivationBatch",
    "ActivationStream",
    "ContextOptions",
    "Contexts",
    "Document",
    "DocumentSource",
    "ExclusionOptions",
    "Harvest",
    "PackedContexts",
    "SiteActivations",
    "SpreadContexts",
    "TextOptions",
    "document_keys",
    "open_documents",
    "pack",
    "python_stdlib_documents",
    "regroup",
    "special_token_ids",
    "split_documents",
    "without_documents",
]
