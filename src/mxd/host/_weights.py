"""The numbers of a host's weights, wherever they are: offloaded, quantised, or cut into parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_QUANTISED = ("Linear8bitLt", "Linear4bit")


def is_quantised(module: nn.Module) -> bool:
    """Whether this is a linear layer of bitsandbytes, whose weight is packed.

    Told by its class name, because bitsandbytes need not be installed.
    """
    return type(module).__name__ in _QUANTISED and hasattr(module, "in_features")


def full_tensor(module: nn.Module, name: str) -> Tensor | None:
    """A parameter of a module as one dense, detached tensor; None where it has none.

    A view of the host's own tensor where that is possible. What is offloaded is fetched to where
    the module runs; what bitsandbytes packed is unpacked; what lies in parts on several processes
    is put together, which all of them have to call alike.

    Args:
        module: the module that has the parameter itself.
        name: such as `weight`.
    """
    with _at_hand(module):
        value = getattr(module, name, None)
        if value is None:
            return None
        assert isinstance(value, Tensor)
        if name == "weight" and is_quantised(module):
            return _unpacked(module)
        return whole(value.detach())


def whole(value: Tensor) -> Tensor:
    """A tensor that may lie in parts on several processes (a DTensor), as one."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def hook_device(module: nn.Module) -> torch.device | None:
    """Where accelerate sends what a module is called with; None where it has no such hook."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        place = getattr(one, "execution_device", None)
        if place is not None:
            return torch.device(place)
    return None


def stored_dtype(module: nn.Module) -> torch.dtype:
    """The type of the numbers in a linear layer, as far as a packed one still tells it."""
    if not is_quantised(module):
        return _tensor(module.weight).dtype
    state: Any = getattr(module.weight, "quant_state", None)
    if state is not None:
        dtype: torch.dtype = state.dtype
        return dtype
    return torch.float32 if module.bias is None else _tensor(module.bias).dtype


@contextlib.contextmanager
def _at_hand(module: nn.Module) -> Iterator[None]:
    """Within, the module's own parameters are not offloaded."""
    if not hasattr(module, "_hf_hook"):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield


def _unpacked(module: nn.Module) -> Tensor:
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    weight, state = module.weight, getattr(module, "state", None)
    assert isinstance(weight, nn.Parameter)
    with torch.no_grad():
        dense: Tensor = dequantize_bnb_weight(weight, state)
    return dense.detach().to(stored_dtype(module))


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
