"""How many bytes the weights of a language model take, whole or quantised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

_BLOCK = 64
"""Weights of 4 bits that share a scale of 4 bytes."""
PACKED = {"8bit": 1.0, "4bit": 0.5 + 4 / _BLOCK}
"""Bytes of a weight of a linear layer that bitsandbytes packs (LLM.int8, NF4): an estimate."""
_LINEAR = ("Linear", "Conv1D")


def stated_quantisation(model: nn.Module) -> str | None:
    """How a model's configuration says that its weights are quantised; None where it does not."""
    stated = getattr(getattr(model, "config", None), "quantization_config", None)
    if stated is None:
        return None
    said = stated if isinstance(stated, dict) else vars(stated)
    for name in PACKED:
        if said.get(f"load_in_{name}") is True or said.get(f"_load_in_{name}") is True:
            return name
    return str(said.get("quant_method") or "an unknown method")[:40]


def unique_parameters(*modules: nn.Module) -> list[Tensor]:
    """The parameters of some modules; those that are shared count once."""
    return list({id(p): p for module in modules for p in module.parameters()}.values())


def weight_bytes(model: nn.Module, parameters: Iterable[Tensor], quantised: str | None) -> int:
    """Bytes of some parameters of a model.

    Args:
        model: the whole model.
        parameters: some of its parameters.
        quantised: `8bit` or `4bit` packs its linear layers, all but its output embedding; anything
            else nothing.
    """
    element = PACKED.get(quantised or "")
    packed = set() if element is None else {id(weight) for weight in _packable(model)}
    return sum(
        int(p.numel() * element) if element is not None and id(p) in packed
        else p.numel() * p.element_size()
        for p in parameters
    )  # fmt: skip


def _packable(model: nn.Module) -> list[Any]:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        module.weight
        for module in model.modules()
        if type(module).__name__ in _LINEAR and module is not head
    ]
