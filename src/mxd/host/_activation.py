"""Name an activation function by what it computes, not by what it is called."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mxd.host._calls import text_config

_COMMON = ("relu", "gelu", "gelu_new", "silu", "relu2", "quick_gelu", "tanh", "sigmoid", "mish")
_LEARNED = ("prelu", "xielu")  # their curves have parameters, so the name does not define them


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """The function that transformers gives a name."""
    from transformers.activations import ACT2FN

    function: Callable[[Tensor], Tensor] = ACT2FN[name]
    return function


def is_activation_name(value: object) -> bool:
    """Whether transformers knows this name and the name alone defines the function."""
    from transformers.activations import ACT2FN

    return isinstance(value, str) and value in ACT2FN and value not in _LEARNED


def _grid() -> Float[Tensor, "points"]:
    # Wide enough for the functions that are clipped at 6 and at 10.
    return torch.linspace(-12.0, 12.0, 481)


@functools.cache
def _curves() -> dict[str, Tensor]:
    from transformers.activations import ACT2FN

    names = dict.fromkeys((*_COMMON, *(name for name in ACT2FN if name not in _LEARNED)))
    with torch.no_grad():
        return {name: activation_function(name)(_grid()) for name in names if name in ACT2FN}


def _same_curve(left: Tensor, right: Tensor) -> bool:
    # The erf and the tanh forms of GELU differ by up to 5e-4; two ways to write one form by 1e-6.
    return torch.allclose(left, right, rtol=1e-5, atol=1e-5)


@functools.cache
def distinct_activations() -> tuple[str, ...]:
    """One name for each different function that transformers has, common ones first."""
    chosen: list[str] = []
    for name, curve in _curves().items():
        if not any(_same_curve(curve, _curves()[other]) for other in chosen):
            chosen.append(name)
    return tuple(chosen)


def name_of(function: Callable[..., Any], preferred: Iterable[str] = ()) -> str | None:
    """The name of a function in transformers' ACT2FN.

    Args:
        function: any callable; tried on a grid from -12 to 12.
        preferred: names to choose first where they compute the same.

    Returns:
        A name, or None where the callable matches none or cannot be called with a tensor.
    """
    try:
        with torch.no_grad():
            values = function(_grid())
        if not isinstance(values, Tensor) or values.shape != _grid().shape:
            return None
        for name in (*preferred, *distinct_activations()):
            if _same_curve(_curves()[name], values):
                return name
    except Exception:  # it is somebody's module: whatever it raises, it is no activation
        return None
    return None


def activation_callables(module: nn.Module) -> Iterator[tuple[str | None, Callable[..., Any]]]:
    """What could be the activation: (child name or None, callable) for each candidate."""
    for name, child in module.named_children():
        if not isinstance(child, nn.Dropout) and next(child.parameters(), None) is None:
            yield name, child
    for value in vars(module).values():
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType | functools.partial):
            yield None, value


def configured_names(model: nn.Module) -> list[str]:
    """Activation names that the model's configuration mentions, those of its text part first."""
    names: dict[str, None] = {}
    for part in (text_config(model), getattr(model, "config", None)):
        for key, value in getattr(part, "__dict__", {}).items():
            if "act" in key and is_activation_name(value):
                names[value] = None
    return list(names)
