"""A language model's config.json, which may be anybody's: looked at before it is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from mxd._json_files import read_json_object
from mxd.errors import UserError
from mxd.host.sources import CHECK_CONFIG, Source

CONFIG = "config.json"
MOST_BLOCKS = 2_000
"""A configuration that claims more is not believed: the modules themselves take memory."""
_MOST_BYTES = 4 << 20
_OTHER_FILES = ("transformers_weights", "configuration_files")
"""Keys by which transformers reads files that nobody has looked at; one of them may be a pickle."""
_KERNELS = "_implementation"
"""What keys that name a kernel end in; one with a slash is code on the hub."""


def read_model_config(source: Source, expected: str) -> PretrainedConfig:
    """The configuration of a causal language model.

    Args:
        source: where it comes from.
        expected: what it should be.

    Raises:
        UserError: there is none, the hub cannot be reached, or it is damaged or of something else.
    """
    with source.refused(expected):
        path = source.file(CONFIG)
    if path is None:
        raise source.refusal(f"it has no {CONFIG}", expected)
    check_config_file(path)
    with source.refused(expected, CHECK_CONFIG):
        config: PretrainedConfig = AutoConfig.from_pretrained(source.name, **source.options)
        _check_causal(source.name, config, expected)
        blocks = getattr(config.get_text_config(), "num_hidden_layers", 1)
    if type(blocks) is not int or not 1 <= blocks <= MOST_BLOCKS:
        raise UserError(
            f"got {source.name!r} with {blocks!r} blocks, expected 1 to {MOST_BLOCKS}; "
            f"look at num_hidden_layers in its {CONFIG}"
        )
    return config


def check_config_file(path: Path) -> None:
    """Refuse a config.json that is too large or damaged, or names code or files of its own.

    Raises:
        UserError: it is or does.
    """
    raw = read_json_object(
        path,
        missing=f"{path} is gone; fetch or save it again",
        remedy="fetch or save it again",
        most_bytes=_MOST_BYTES,
        finite=False,  # some models' own limits are infinite
    )
    named = raw.get("architectures")
    if named is not None and not (
        isinstance(named, list) and all(isinstance(name, str) for name in named)
    ):
        raise UserError(
            f"{path} has architectures {str(named)[:80]!r}, expected a list of names; "
            f"{CHECK_CONFIG}"
        )
    for key in _OTHER_FILES:
        if raw.get(key) is not None:
            raise UserError(f"{path} has {key}, which is not followed, expected none; remove it")
    _check_kernels(raw, path)


def _check_kernels(value: Any, path: Path) -> None:
    """Refuse kernels of the hub, which are code, anywhere in a configuration."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key.removesuffix("_internal").endswith(_KERNELS) and "/" in str(inner):
            raise UserError(
                f"{path} asks for code from the hub ({key} {str(inner)[:80]!r}), expected "
                "a kernel of transformers' own; remove it"
            )
        _check_kernels(inner, path)


def _check_causal(name: str, config: PretrainedConfig, expected: str) -> None:
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
            f"expected {expected}; choose a model that predicts the next token"
        )
