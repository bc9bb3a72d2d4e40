"""A site at any module: its widths are learned by watching one call of it."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.host._calls import dummy_token_ids
from mxd.host._site import MLPSite
from mxd.host._taps import StopForward


def opaque_site(model: nn.Module, name: str, layer_index: int | None) -> MLPSite:
    """The site of a module from (..., d_in) to (..., d_out) of which nothing else is known.

    Raises:
        UserError: a forward pass over a few tokens does not call the module, or it does not
            take and give one tensor.
    """
    module = model.get_submodule(name)
    x, y = _watch(model, name, module)
    return MLPSite(
        name=name,
        layer_index=layer_index,
        d_in=x.shape[-1],
        d_out=y.shape[-1],
        d_hidden=None,
        activation=None,
        glu=None,
        verified=None,
        boundary="module",
        module=module,
        like=torch.empty(0, dtype=x.dtype, device=x.device),
    )


def _watch(model: nn.Module, name: str, module: nn.Module) -> tuple[Tensor, Tensor]:
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def see(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        calls.append((args, kwargs, out))
        raise StopForward

    hook = module.register_forward_hook(see, with_kwargs=True)
    try:
        with contextlib.suppress(StopForward):
            model(input_ids=dummy_token_ids(model), use_cache=False)
    except Exception as error:
        raise UserError(
            f"got {name}, whose widths are learned from a forward pass over a few tokens, and "
            f"that failed ({error}); expected a language model that is loaded and runs"
        ) from error
    finally:
        hook.remove()
    if not calls:
        raise UserError(
            f"got {name} ({type(module).__name__}), which a forward pass over text never calls; "
            "expected a module that it does; choose another"
        )
    args, kwargs, output = calls[0]
    given: Any = next(iter((*args, *kwargs.values())), None)
    problem = _problem(given, output)
    if problem:
        raise UserError(
            f"got {name} ({type(module).__name__}), which {problem}; "
            "expected a module from one tensor (..., d_in) to one tensor (..., d_out)"
        )
    return given, output


def _problem(given: Any, output: Any) -> str:
    """Why a call is no map of activations, or nothing."""
    for verb, value in (("takes", given), ("gives", output)):
        if not isinstance(value, Tensor):
            return f"{verb} a {type(value).__name__} and no single tensor"
        if not value.is_floating_point() or value.ndim < 2:
            return f"{verb} a tensor of {value.dtype} and shape {tuple(value.shape)}"
    if given.shape[:-1] != output.shape[:-1]:
        return f"maps shape {tuple(given.shape)} to {tuple(output.shape)}"
    return ""
