"""Where each unit of a layer fires in a text."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mxd.data import Contexts
from mxd.errors import UserError
from mxd.host import capture, find_site
from mxd.layers import SparseLayer


@dataclass(frozen=True)
class Firing:
    """Every activation of every unit over some contexts, sorted by unit."""

    tokens: Int[Tensor, "contexts length"]
    """Token ids of the contexts."""
    places: Int[Tensor, "firings"]
    """Flat position (context · length + offset) of each activation."""
    values: Float[Tensor, "firings"]
    """Coefficients, all above zero."""
    starts: Int[Tensor, "units_plus_one"]
    """Unit n has the activations starts[n] to starts[n + 1]."""

    @property
    def counts(self) -> Int[Tensor, "units"]:
        """How often each unit fires."""
        return self.starts.diff()

    def of(self, unit: int) -> tuple[Int[Tensor, "firings"], Float[Tensor, "firings"]]:
        """Places and values of one unit."""
        part = slice(int(self.starts[unit]), int(self.starts[unit + 1]))
        return self.places[part], self.values[part]


@torch.no_grad()
def find_firing(
    model: nn.Module,
    site: str,
    layer: SparseLayer,
    contexts: Iterable[Contexts],
    *,
    tokens: int = 50_000,
) -> Firing:
    """Run the model over text and note where each unit fires.

    Args:
        model: the base model.
        site: name of the module that the layer replaces.
        layer: the layer.
        contexts: text, as `mxd.data.pack` gives it.
        tokens: how many tokens to read; memory grows with tokens · K.

    Raises:
        UserError: no text.
    """
    where = find_site(model, site)
    device = next(model.parameters()).device
    ids, units, values, places, seen = [], [], [], [], 0
    for batch in contexts:
        x, y = capture(model, [where], batch.tokens.to(device))[site]
        fed = y if layer.reads == "output" else x
        codes = layer.encode(fed.to(layer.bias.device, layer.bias.dtype))
        active = codes.values > 0
        positions = torch.arange(batch.tokens.numel()).view(*batch.tokens.shape, 1) + seen
        ids.append(batch.tokens)
        units.append(codes.indices[active].cpu())
        values.append(codes.values[active].float().cpu())
        places.append(positions.expand(active.shape)[active.cpu()])
        seen += batch.tokens.numel()
        if seen >= tokens:
            break
    if not seen:
        raise UserError("got no text to look for activations in, expected at least one context")
    order = torch.argsort(torch.cat(units), stable=True)
    counts = torch.bincount(torch.cat(units), minlength=layer.config.n_units)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return Firing(torch.cat(ids), torch.cat(places)[order], torch.cat(values)[order], starts)
