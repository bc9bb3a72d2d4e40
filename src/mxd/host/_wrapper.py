"""The modules that stand in for a host's own while a layer is grafted in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.host._calls import tensor_arguments, token_ids_of
from mxd.layers._provenance import Provenance


def reads_output(layer: nn.Module) -> bool:
    """Whether the layer takes the original's y rather than x (an autoencoder does)."""
    return getattr(layer, "reads", "input") == "output"


def excluded_tokens(layer: nn.Module) -> tuple[int, ...]:
    """Tokens at which the layer leaves the original's output alone."""
    provenance = getattr(layer, "provenance", None)
    return tuple(provenance.excluded_token_ids) if isinstance(provenance, Provenance) else ()


class Graft(nn.Module):
    """Stands where `original` stood."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original
        self.training = original.training


def bare(module: nn.Module) -> nn.Module:
    """The host's own module under any number of grafts."""
    while isinstance(module, Graft):
        module = module.original
    return module


@contextlib.contextmanager
def ungrafted(model: nn.Module) -> Iterator[None]:
    """The model as it is without any graft, for looking at it."""
    places = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if isinstance(child, Graft) and not isinstance(parent, Graft)
    ]
    try:
        for parent, name, child in places:
            parent._modules[name] = bare(child)
        yield
    finally:
        for parent, name, child in places:
            parent._modules[name] = child


class CurrentTokens:
    """The token ids of the model's call in progress, kept by two hooks on the model."""

    def __init__(self) -> None:
        self.ids: Tensor | None = None

    def see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook: note the ids."""
        self.ids = token_ids_of(args, kwargs)
        if self.ids is None:
            raise UserError(
                f"got a call of {type(module).__name__} without input_ids, expected token ids: a "
                "grafted layer leaves some tokens to the original MLP; pass input_ids rather than "
                "inputs_embeds, or clear the layer's provenance.excluded_token_ids"
            )

    def forget(self, _module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        """Post-hook: the call is over."""
        self.ids = None

    def among(self, excluded: Tensor, like: Tensor) -> Bool[Tensor, "..."]:
        """Where the current token is excluded, shaped as the positions of `like` (..., d)."""
        if self.ids is None or self.ids.numel() != like.shape[:-1].numel():
            got = None if self.ids is None else tuple(self.ids.shape)
            raise UserError(
                f"got activations of shape {tuple(like.shape)} with token ids of shape {got}, "
                "expected one id for each position; call the whole model, not a part of it"
            )
        ids = self.ids.reshape(like.shape[:-1]).to(like.device)
        return torch.isin(ids, excluded.to(like.device))


@dataclass(frozen=True, eq=False)
class Grafting:
    """A layer and what it needs to know about its place."""

    layer: nn.Module
    site_name: str
    d_out: int
    adds_residual: bool
    """The original returns y plus its second argument."""
    excluded: tuple[int, ...]
    """Token ids at which the original's output stays."""
    tokens: CurrentTokens | None
    """Which tokens the model is at; not None where some are excluded."""

    @property
    def needs_dense(self) -> bool:
        """Whether the original's output is needed: to read it, or to keep it at some tokens."""
        return reads_output(self.layer) or bool(self.excluded)


class GraftedModule(Graft):
    """Computes y with a layer in the place of a module.

    The layer works in its own precision and on its own device. Arguments after x are dropped,
    except the residual where the original adds one.
    """

    def __init__(self, original: nn.Module, grafting: Grafting) -> None:
        super().__init__(original)
        self.grafting = grafting
        self.layer = grafting.layer  # registered, so that it follows the model to a device
        self.output = nn.Identity()  # y passes here on its way, for whoever captures it
        self.excluded = torch.tensor(grafting.excluded, dtype=torch.long)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return y (..., d_out) for x (..., d_in), plus the residual where there is one."""
        tensors = tensor_arguments(args, kwargs)
        if not self.grafting.adds_residual:
            dense = self.original(*args, **kwargs) if self.grafting.needs_dense else None
            return self.replaced(tensors[0], dense)
        x, residual = tensors[:2]
        # With a residual of zeros the original gives y exactly; a difference would round.
        dense = self.original(x, torch.zeros_like(residual)) if self.grafting.needs_dense else None
        return self.replaced(x, dense) + residual

    def replaced(self, x: Tensor, dense: Tensor | None) -> Tensor:
        """The layer's y (..., d_out), given x (..., d_in) and the original's y if it is needed."""
        read = x
        if reads_output(self.layer):
            assert dense is not None
            read = dense
        y = self._run(read)
        if self.grafting.excluded:
            assert dense is not None
            assert self.grafting.tokens is not None
            kept = self.grafting.tokens.among(self.excluded, dense)
            y = torch.where(kept.unsqueeze(-1), dense, y)
        out: Tensor = self.output(y)
        return out

    def _run(self, x: Tensor) -> Tensor:
        example = next((p for p in self.layer.parameters() if p.is_floating_point()), x)
        y = self.layer(x.to(example.device, example.dtype))
        expected = (*x.shape[:-1], self.grafting.d_out)
        if not isinstance(y, Tensor) or y.shape != expected:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise UserError(
                f"got {got} from the {type(self.layer).__name__} grafted at "
                f"{self.grafting.site_name}, expected a tensor of shape {expected}; "
                "give the layer that output width"
            )
        return y.to(x.device, x.dtype)


class SplitTail(GraftedModule):
    """Stands at the last linear map of a split site; `head` has kept x from the first."""

    def __init__(self, original: nn.Module, grafting: Grafting, head: KeepInput) -> None:
        super().__init__(original, grafting)
        self.held = [head]  # in a list: it is no part of this module

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return y (..., d_out) for the x that went into the first linear map."""
        return self.replaced(self.held[0].take(), self.original(*args, **kwargs))


class KeepInput(Graft):
    """Stands at the first linear map of a split site: computes what it did and keeps x."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__(original)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return the original's output."""
        self.kept = [x]
        y: Tensor = self.original(x)
        return y

    def take(self) -> Tensor:
        """Return the last x, once."""
        return self.kept.pop()


class Skipped(Graft):
    """Stands where the host goes on computing with what is already y."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        return x
