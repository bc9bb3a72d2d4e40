"""Load a frozen language model: safetensors only, no code from the repository, clear refusals."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mxd.errors import UserError
from mxd.host.devices import check_device
from mxd.host.model_config import read_model_config
from mxd.host.model_files import check_blocks, check_complete, check_fits, check_model_files
from mxd.host.placing import Placement, keep_while
from mxd.host.skeleton import precision_of, skeleton_of
from mxd.host.sources import CHECK_CONFIG, find_source
from mxd.host.tokenizer_files import check_tokenizer_files

_EXPECTED = "a hub id or a folder of a causal language model with safetensors weights"
_WITH_TOKENIZER = "one with a tokenizer"


def load_model(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    load_in: str | None = None,
    tensor_parallel: bool = False,
) -> PreTrainedModel:
    """Load a causal language model, frozen and in evaluation mode.

    Args:
        name_or_path: hub id, or folder of a saved model.
        device: where to put it, as long as nothing else is said below.
        dtype: precision, such as torch.bfloat16 or "bfloat16"; "auto" for the checkpoint's own;
            by default float32 on the CPU and "auto" elsewhere.
        revision: branch, tag or commit on the hub.
        device_map: spread it over the devices of this machine: `auto`, `balanced`,
            `balanced_low_0`, `sequential`, or a device (or `disk`) for each module by its name.
            Needs accelerate.
        load_in: quantise its linear layers to `8bit` (LLM.int8) or `4bit` (NF4). Needs accelerate
            and bitsandbytes.
        tensor_parallel: cut its layers into parts for the processes of torch.distributed, by the
            plan that transformers has for it; all of them have to load and run it alike. Needs
            accelerate.

    Raises:
        UserError: there is no such device or model, the hub cannot be reached, the model is not
            a causal language model, its weights are pickles or incomplete, a file is damaged or
            leads out of the folder, or a package is missing.
    """
    place = check_device(device)
    placement = Placement.of(device_map, load_in, tensor_parallel)
    source = find_source(name_or_path, revision, _EXPECTED)
    precision = precision_of(dtype, place)
    config = read_model_config(source, _EXPECTED)
    claim = check_model_files(source, _EXPECTED)
    check_blocks(claim, config, source)
    skeleton = skeleton_of(config, name=source.name)
    check_fits(claim, skeleton, source)
    with (
        source.refused(_EXPECTED, f"{CHECK_CONFIG}, and for room on {place}"),
        _no_conversion(),
        placement.options(place, precision) as further,
    ):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.name,
            config=config,
            dtype=precision,
            use_safetensors=True,
            output_loading_info=True,
            **source.options,
            **further,
        )
        model, info = loaded
        keep_while(model, further)
    check_complete(info, skeleton, source)
    if source.commit is not None:
        model.config._commit_hash = source.commit  # transformers no longer says it; runs record it
    if not placement.given:
        nn.Module.to(model, place)  # the model's own `to` is typed for something else
    frozen: PreTrainedModel = model.eval().requires_grad_(False)
    return frozen


def load_tokenizer(
    name_or_path: str | Path, *, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Args:
        name_or_path: hub id, or folder of a saved model.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    source = find_source(name_or_path, revision, _EXPECTED)
    check_tokenizer_files(source, _WITH_TOKENIZER)
    with source.refused(_WITH_TOKENIZER, "look at its tokenizer.json and tokenizer_config.json"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.name, **source.options
        )
        words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
        tokenizer.decode(tokenizer("a")["input_ids"])  # settings of wrong types show only here
    if not words:
        raise UserError(  # transformers makes an empty one where there are no files
            f"got {source.name!r}, which has no tokenizer, expected one with a tokenizer; save the "
            "model's tokenizer beside it"
        )
    return tokenizer


@contextlib.contextmanager
def _no_conversion() -> Iterator[None]:
    """Keep transformers from asking a bot to convert pickles: that opens a public pull request."""
    key = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before
