"""The activations at sites of the host: exactly what its forward pass computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.host._site import MLPSite
from mxd.host._taps import StopForward, Tap, Values, recording
from mxd.host._wrapper import Graft
from mxd.host.find import find_site


def capture(
    model: nn.Module,
    sites: Iterable[MLPSite | str | int],
    input_ids: Int[Tensor, "batch sequence"],
    attention_mask: Tensor | None = None,
    *,
    stop: bool = True,
    **model_kwargs: Any,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Input and output of sites for a batch of tokens, without gradients, bit for bit.

    Where a layer is grafted at a site, y is what the layer gives.

    Args:
        model: the host.
        sites: sites, or names or layer indices to look up (which costs a small check each time).
        input_ids: tokens (batch, sequence).
        attention_mask: as the model takes it, (batch, sequence) as a rule.
        stop: end the forward pass as soon as every site has been seen.
        model_kwargs: further arguments of the model.

    Returns:
        For each site's name (x (batch, sequence, d_in), y (batch, sequence, d_out)).

    Raises:
        UserError: a site is unknown, or the forward pass does not come by it.
    """
    taps = _taps(model, sites)
    call = {"attention_mask": attention_mask, "use_cache": False, **model_kwargs}
    recorded = recording(model, taps, stop=stop)
    with torch.no_grad(), recorded as values, contextlib.suppress(StopForward):
        model(input_ids=input_ids, **call)
    missing = [tap.name for tap in taps if tap.name not in values]
    if missing:
        raise UserError(
            f"got sites {missing}, which the forward pass did not come by; "
            "expected modules that it calls; choose other sites (see find_mlps)"
        )
    return values


@contextlib.contextmanager
def record(model: nn.Module, sites: Iterable[MLPSite | str | int]) -> Iterator[Values]:
    """Note input and output of sites during every forward pass of the model inside.

    For having logits and activations of one pass. The dictionary is emptied when a pass begins;
    it then fills with detached copies as `capture` returns them.

    Args:
        model: the host; call this very module, not a part of it.
        sites: sites, or names or layer indices to look up.

    Yields:
        {site name: (x (..., d_in), y (..., d_out))} of the last pass.
    """
    with recording(model, _taps(model, sites), stop=False) as values:
        yield values


def _taps(model: nn.Module, sites: Iterable[MLPSite | str | int]) -> list[Tap]:
    found = (s if isinstance(s, MLPSite) else find_site(model, s) for s in sites)
    taps = list({site.name: _tap(model, site) for site in found}.values())
    if not taps:
        raise UserError("got no sites, expected at least one; see find_mlps(model)")
    return taps


def _tap(model: nn.Module, site: MLPSite) -> Tap:
    """Where the site is in the model now: a graft may stand there."""
    module = module_at(model, site.name)
    if site.boundary == "module" or site.parts is None:
        return Tap(site.name, module, module)
    if site.boundary == "residual" and isinstance(module, Graft):
        return Tap(site.name, module, module.get_submodule("output"), adds_residual=True)
    exit_module = module_at(model, site.parts.decoder.name)
    return Tap(site.name, module, exit_module, adds_residual=site.boundary == "residual")


def module_at(model: nn.Module, name: str) -> nn.Module:
    """The module of that dotted name.

    Raises:
        UserError: the model has none.
    """
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise UserError(
            f"got site {name}, which this {type(model).__name__} does not have; expected a site "
            "of the same model; find it again with find_site"
        ) from error
