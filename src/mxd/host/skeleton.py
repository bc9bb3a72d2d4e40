"""A language model without weights, from its configuration alone, on the meta device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from mxd.errors import UserError
from mxd.host.model_config import MOST_BLOCKS, read_model_config
from mxd.host.sources import CHECK_CONFIG, Source, find_source

_MOST_TENSORS = 400_000
_EXPECTED = "a hub id or a folder with the config.json of a causal language model"


def load_skeleton(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | str = "auto",
    revision: str | None = None,
) -> PreTrainedModel:
    """The modules of a causal language model on the meta device: shapes without numbers.

    Only config.json is read, so that models of any size can be looked at.

    Args:
        name_or_path: hub id, or folder with a config.json.
        dtype: precision of the weights; "auto" for the one that the configuration names.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: there is no such model, the hub cannot be reached, it is not a causal language
            model, or its configuration describes none that can be built.
    """
    source = find_source(name_or_path, revision, _EXPECTED)
    return skeleton_of(read_model_config(source, _EXPECTED), dtype=dtype, name=source.name)


def skeleton_of(
    config: PretrainedConfig, *, dtype: torch.dtype | str = "auto", name: str = "a configuration"
) -> PreTrainedModel:
    """The modules that a configuration describes, on the meta device, in evaluation mode.

    Args:
        config: of a causal language model.
        dtype: precision of the weights; "auto" for the one that the configuration names.
        name: what messages call it.

    Raises:
        UserError: it describes no model that can be built.
    """
    blocks = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(blocks, int) and not 1 <= blocks <= MOST_BLOCKS:
        raise UserError(
            f"got {name!r} with {blocks} blocks, expected 1 to {MOST_BLOCKS}; "
            "look at num_hidden_layers in its config.json"
        )
    asked = precision_of(dtype, torch.device("meta"))
    precision = asked if isinstance(asked, torch.dtype) else _stated_dtype(config)
    with Source(name, {}).refused(_EXPECTED, CHECK_CONFIG), _few_tensors():
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config))
        model.tie_weights()
    nn.Module.to(model, dtype=precision)
    skeleton: PreTrainedModel = model.eval().requires_grad_(False)
    return skeleton


def precision_of(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype | str:
    """The precision that a model is loaded in; "auto" for the checkpoint's own.

    Raises:
        UserError: there is no such type of numbers with fractions.
    """
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(
            f"got dtype {dtype!r}, expected auto, float32, bfloat16 or float16; choose one of these"
        )
    return found


@contextmanager
def _few_tensors() -> Iterator[None]:
    """Stop where more parameters are made than a model has: each takes memory, also on meta."""
    made = 0

    def count(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal made
        made += 1
        if made > _MOST_TENSORS:
            raise ValueError(f"its configuration describes more than {_MOST_TENSORS} tensors")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _stated_dtype(config: PretrainedConfig) -> torch.dtype:
    """The dtype of the checkpoint, as its configuration has it; float32 where it says nothing."""
    stated = getattr(config, "dtype", None)
    return stated if isinstance(stated, torch.dtype) else torch.float32
