"""Put layers in the place of the host's own, and put the host's own back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from torch import nn

from mxd.errors import UserError
from mxd.host._compatible import check_provenance, check_widths
from mxd.host._site import MLPSite
from mxd.host._wrapper import (
    CurrentTokens,
    GraftedModule,
    Grafting,
    KeepInput,
    Skipped,
    SplitTail,
    bare,
    excluded_tokens,
)
from mxd.host.capture import module_at
from mxd.host.find import find_site


@contextlib.contextmanager
def graft(
    model: nn.Module,
    layers: Mapping[str, nn.Module] | Mapping[int, nn.Module] | Mapping[MLPSite, nn.Module],
    *,
    check: bool = True,
) -> Iterator[None]:
    """Compute with other layers at some sites, for as long as the context lasts.

    On leaving it, by an error too, the model's own modules are back. Grafts nest; at one site the
    inner one counts. A layer runs in its own precision and on its own device. A layer that reads
    the output (`reads == "output"`, an autoencoder) runs after the original MLP. At the tokens of
    `layer.provenance.excluded_token_ids` the original's output stays.

    Args:
        model: the host.
        layers: {site, its name, or the index of its layer: layer from (..., d_in) to (..., d_out)}.
        check: compare each layer's provenance with the model, and warn where they differ.

    Yields:
        Nothing: use the model.

    Raises:
        UserError: a site is unknown, named twice or within another, or a width does not fit.

    Warns:
        BaseModelMismatch: a layer was trained for other weights or at another site.
    """
    sites = _resolve(model, layers)
    for site, layer in sites.items():
        check_widths(site, layer)
        if check:
            check_provenance(model, site, layer)
    with contextlib.ExitStack() as stack:
        tokens = None
        if any(excluded_tokens(layer) for layer in sites.values()):
            tokens = _watch_tokens(model, stack)
        for site, layer in sites.items():
            for name, module in _replacements(model, site, layer, tokens).items():
                _replace(model, name, module, stack)
        yield


def _resolve(
    model: nn.Module,
    layers: Mapping[str, nn.Module] | Mapping[int, nn.Module] | Mapping[MLPSite, nn.Module],
) -> dict[MLPSite, nn.Module]:
    sites: dict[MLPSite, nn.Module] = {}
    for key, layer in layers.items():
        site = key if isinstance(key, MLPSite) else find_site(model, key)
        for other in sites:
            if f"{site.name}.".startswith(f"{other.name}.") or other.name.startswith(
                f"{site.name}."
            ):
                raise UserError(
                    f"got layers at {other.name} and at {site.name}, expected sites apart from "
                    "each other; nest two grafts, or drop one"
                )
        sites[site] = layer
    return sites


def _watch_tokens(model: nn.Module, stack: contextlib.ExitStack) -> CurrentTokens:
    tokens = CurrentTokens()
    before = model.register_forward_pre_hook(tokens.see, with_kwargs=True)
    stack.callback(before.remove)
    after = model.register_forward_hook(tokens.forget, always_call=True)
    stack.callback(after.remove)
    return tokens


def _replacements(
    model: nn.Module, site: MLPSite, layer: nn.Module, tokens: CurrentTokens | None
) -> dict[str, nn.Module]:
    """What stands where, by dotted name."""
    grafted = Grafting(
        layer=layer,
        site_name=site.name,
        d_out=site.d_out,
        adds_residual=site.boundary == "residual",
        excluded=excluded_tokens(layer),
        tokens=tokens,
    )

    def own(name: str) -> nn.Module:
        return bare(module_at(model, name))

    if site.boundary != "split" or site.parts is None:
        return {site.name: GraftedModule(own(site.name), grafted)}
    first, activation, last = (
        site.parts.encoder.name,
        site.parts.activation_name,
        site.parts.decoder.name,
    )
    if activation is None or site.parts.up is not None or grafted.needs_dense:
        # The original has to run too, or cannot be cut out: act where its output appears.
        head = KeepInput(own(first))
        tail = SplitTail(own(last), grafted, head)
        # An outer graft may skip the activation; this one needs it.
        between = {} if activation is None else {activation: own(activation)}
        return {first: head, **between, last: tail}
    return {
        first: GraftedModule(own(first), grafted),
        activation: Skipped(own(activation)),
        last: Skipped(own(last)),
    }


def _replace(model: nn.Module, name: str, module: nn.Module, stack: contextlib.ExitStack) -> None:
    parent_name, _, child = name.rpartition(".")
    parent = module_at(model, parent_name)
    # By hand: attributes and setattr differ between containers, and the order of children stays.
    previous = parent._modules[child]
    stack.callback(parent._modules.__setitem__, child, previous)
    parent._modules[child] = module
