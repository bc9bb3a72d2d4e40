"""What a module was called with, and calling models without a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from mxd.errors import UserError
from mxd.host._weights import hook_device


def tensor_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that a call passed, positional ones first."""
    return [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]


def token_ids_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The token ids that a language model was called with, or None (it was given embeddings)."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    return ids if isinstance(ids, Tensor) and not ids.is_floating_point() else None


def token_shape_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """(batch, sequence) of a call of a language model, or None where it cannot be told."""
    ids = token_ids_of(args, kwargs)
    if ids is not None:
        return tuple(ids.shape)
    embeddings = kwargs.get("inputs_embeds")
    return tuple(embeddings.shape[:-1]) if isinstance(embeddings, Tensor) else None


def check_token_ids(model: nn.Module, ids: Int[Tensor, "..."]) -> None:
    """Make sure that a model has a position and an embedding for each token.

    Raises:
        UserError: it has not; inside the model this would be an IndexError, or worse on a GPU.
    """
    if not isinstance(model, PreTrainedModel) or ids.is_meta or not ids.numel():
        return
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and ids.shape[-1] > positions:
        raise UserError(
            f"got contexts of {ids.shape[-1]} tokens, expected at most the {positions} that this "
            f"{type(model).__name__} has positions for; choose shorter contexts"
        )
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if isinstance(rows, int) and int(ids.max()) >= rows:
        raise UserError(
            f"got token id {int(ids.max())}, expected 0 to {rows - 1}, the vocabulary of this "
            f"{type(model).__name__}; use the tokenizer that it was trained with"
        )


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module gets its own flag back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def dummy_token_ids(model: nn.Module) -> Int[Tensor, "2 3"]:
    """A few ids that any vocabulary has, on the model's device."""
    ids = torch.arange(1, 7, device=input_device(model))
    return ids.reshape(2, 3) % _vocabulary_size(model)


def input_device(model: nn.Module) -> torch.device:
    """Where token ids are to be sent: to where the model's embedding is, or runs.

    Args:
        model: a language model, on one device or spread over several.
    """
    embedding = _embedding(model)
    found = None if embedding is None else hook_device(embedding)
    if found is not None:
        return found
    parameters = None if embedding is None else next(embedding.parameters(), None)
    parameter = next(model.parameters(), None) if parameters is None else parameters
    return torch.device("cpu") if parameter is None else parameter.device


def _embedding(model: nn.Module) -> nn.Module | None:
    if not isinstance(model, PreTrainedModel):
        return None
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def _vocabulary_size(model: nn.Module) -> int:
    size = getattr(text_config(model), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else 2


def text_config(model: nn.Module) -> Any:
    """The part of a model's configuration that describes its language model, or None."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config
