"""A language model without weights, from its configuration alone, on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from mxd.errors import UserError
from mxd.host.loading import _LOADING_ERRORS, _check_causal, _precision, _refusal, _source

MOST_BLOCKS = 2_000
"""A configuration that claims more is not believed: the modules themselves take memory."""
_BUILDING_ERRORS = (
    *_LOADING_ERRORS, TypeError, AttributeError, AssertionError, ArithmeticError,
)  # fmt: skip
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
    name, options = _source(name_or_path, revision)
    try:
        config = AutoConfig.from_pretrained(name, **options)
    except _BUILDING_ERRORS as error:
        raise _refusal(name, error, options, _EXPECTED) from error
    _check_causal(name, config)
    return skeleton_of(config, dtype=dtype, name=name)


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
    asked = _precision(dtype, torch.device("meta"))
    precision = asked if isinstance(asked, torch.dtype) else _stated_dtype(config)
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        model.tie_weights()
    except _BUILDING_ERRORS as error:
        raise _refusal(name, error, {}, _EXPECTED) from error
    nn.Module.to(model, dtype=precision)
    skeleton: PreTrainedModel = model.eval().requires_grad_(False)
    return skeleton


def _stated_dtype(config: PretrainedConfig) -> torch.dtype:
    """The dtype of the checkpoint, as its configuration has it; float32 where it says nothing."""
    stated = getattr(config, "dtype", None)
    return stated if isinstance(stated, torch.dtype) else torch.float32
