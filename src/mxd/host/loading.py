"""Load a frozen language model: safetensors only, no code from the repository, clear refusals."""

from __future__ import annotations

import contextlib
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from mxd.errors import UserError

_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
_EXPECTED = "a hub id or a folder of a causal language model with safetensors weights"
_HUB_TIMEOUT = 5.0  # seconds; the hub's own client tries again for half a minute and more


def load_model(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
) -> PreTrainedModel:
    """Load a causal language model, frozen and in evaluation mode.

    Args:
        name_or_path: hub id, or folder of a saved model.
        device: where to put it.
        dtype: precision, such as torch.bfloat16 or "bfloat16"; "auto" for the checkpoint's own;
            by default float32 on the CPU and "auto" elsewhere.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: there is no such device or model, the hub cannot be reached, the model is not
            a causal language model, or its weights are pickles.
    """
    place = check_device(device)
    name, options = _source(name_or_path, revision)
    precision = _precision(dtype, place)
    try:
        config = AutoConfig.from_pretrained(name, **options)
    except _LOADING_ERRORS as error:
        raise _refusal(name, error, options) from error
    _check_causal(name, config)
    _check_no_pickles(name)
    try:
        with _no_conversion():
            model = AutoModelForCausalLM.from_pretrained(
                name, config=config, dtype=precision, use_safetensors=True, **options
            )
    except _LOADING_ERRORS as error:
        raise _refusal(name, error, options) from error
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
    name, options = _source(name_or_path, revision)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **options)
    except (*_LOADING_ERRORS, AttributeError, TypeError) as error:
        raise _refusal(name, error, options, expected="one with a tokenizer") from error
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise UserError(  # transformers makes an empty one where there are no files
            f"got {name!r}, which has no tokenizer, expected one with a tokenizer; save the "
            "model's tokenizer beside it"
        )
    return tokenizer


def check_device(name: str | torch.device) -> torch.device:
    """A device that is there.

    Args:
        name: such as "cpu", "cuda", "cuda:1". Apple's "mps" has no float64, which sums need.

    Raises:
        UserError: there is none of that name; the message lists those there are.
    """
    available = ["cpu", "meta"]
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.xpu.is_available():
        available += ["xpu", *(f"xpu:{index}" for index in range(torch.xpu.device_count()))]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not {str(device), device.type if not device.index else ""} & {*available}:
        listed = ", ".join(item for item in available if item != "meta")
        raise UserError(f"got device {str(name)!r}, expected one of {listed}; choose one of these")
    return device


def _precision(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype | str:
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


def _source(name_or_path: str | Path, revision: str | None) -> tuple[str, dict[str, Any]]:
    """The name, and how to look for it."""
    path = Path(name_or_path).expanduser()
    name = str(path) if path.exists() else str(name_or_path)
    if not path.exists() and not _is_hub_id(name_or_path):
        raise UserError(f"got {name!r}, which does not exist, expected {_EXPECTED}; check the path")
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    if not path.exists() and not _hub_answers():
        options["local_files_only"] = True
    return name, options


def _is_hub_id(name: str | Path) -> bool:
    """Whether it reads as `name` or `owner/name`, and not as a path."""
    parts = str(name).split("/")
    return (
        isinstance(name, str)
        and len(parts) <= 2
        and all(part and not part.startswith((".", "~")) for part in parts)
    )


def _hub_answers() -> bool:
    """Whether the hub may be asked: a look at the door, since its client knocks for very long."""
    if constants.HF_HUB_OFFLINE:
        return False
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    if address.hostname is None or urllib.request.getproxies():
        return True  # a proxy stands between: only the client knows
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname, port), timeout=_HUB_TIMEOUT):
            return True
    except OSError:
        return False


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


def _check_causal(name: str, config: PretrainedConfig) -> None:
    """Refuse encoders: AutoModelForCausalLM would load BERT, with a head of random weights."""
    architectures = getattr(config, "architectures", None) or []
    causal_heads = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
    causal = any(
        a in causal_heads or a.endswith(("CausalLM", "LMHeadModel")) for a in architectures
    )
    if not causal and all(a.endswith("Model") for a in architectures):  # saved without its head
        causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    bidirectional = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(
        config, "is_decoder", False
    )
    if not causal or bidirectional or getattr(config, "is_encoder_decoder", False):
        kind = ", ".join(architectures) or config.model_type
        raise UserError(
            f"got {name!r} ({kind}), which is not a causal language model, "
            f"expected {_EXPECTED}; choose a model that predicts the next token"
        )


def _check_no_pickles(name: str) -> None:
    folder = Path(name)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        found = f"only pickled weights ({pickles[0]})" if pickles else "no weights"
        advice = (
            "convert them, because unpickling can run any code" if pickles else "check the path"
        )
        raise UserError(f"got {name!r} with {found}, expected {_EXPECTED}; {advice}")


def _refusal(
    name: str, error: BaseException, options: dict[str, Any], expected: str = _EXPECTED
) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if options.get("local_files_only"):
        return UserError(
            f"got {name!r}, which is neither a folder nor in the local cache, and the hub cannot "
            f"be reached; expected {expected}; check the name, or go online"
        )
    if "safetensors" in reason and "file named" in reason:
        reason, advice = (
            "it has no safetensors weights",
            "give a revision that has them, because unpickling can run any code",
        )
    else:
        advice = "check the name"
    return UserError(
        f"got {name!r}, which cannot be loaded ({reason}), expected {expected}; {advice}"
    )
