"""Where each unit of a layer fires in a text."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mxd.data import Contexts
from mxd.errors import UserError
from mxd.host import capture, find_site, input_device
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
    found = find_firings(model, {site: {"": layer}}, contexts, tokens=tokens)
    return next(firing for _, _, firing in found)


def find_firings(
    model: nn.Module,
    layers: Mapping[str, Mapping[str, SparseLayer]],
    contexts: Iterable[Contexts],
    *,
    tokens: int = 50_000,
) -> Iterator[tuple[str, str, Firing]]:
    """The same for many layers, from one pass of the model.

    The inputs and outputs of all sites are held for as long as this runs, tokens · (d_in + d_out)
    numbers for each; the activations of one layer at a time.

    Args:
        model: the base model.
        layers: layers by the name of their site and their own.
        contexts: text, as `mxd.data.pack` gives it.
        tokens: how many tokens to read.

    Yields:
        Site, name and firing of each layer.

    Raises:
        UserError: no text.
    """
    sites = [find_site(model, site) for site in layers]
    device = input_device(model)
    ids: list[Tensor] = []
    held: dict[str, list[tuple[Tensor, Tensor]]] = {site: [] for site in layers}
    for batch in contexts:
        for site, pair in capture(model, sites, batch.tokens.to(device)).items():
            held[site].append(pair)
        ids.append(batch.tokens)
        if sum(rows.numel() for rows in ids) >= tokens:
            break
    if not ids:
        raise UserError("got no text to look for activations in, expected at least one context")
    for site, students in layers.items():
        for name, layer in students.items():
            side = 1 if layer.reads == "output" else 0
            yield site, name, _firing(layer, torch.cat(ids), [pair[side] for pair in held[site]])


@torch.no_grad()
def _firing(
    layer: SparseLayer, tokens: Int[Tensor, "contexts length"], fed: list[Tensor]
) -> Firing:
    """The activations of one layer at what it is fed, batch by batch."""
    units, values, places, seen = [], [], [], 0
    for batch in fed:
        codes = layer.encode(batch.to(layer.bias.device, layer.bias.dtype))
        active = codes.values > 0
        count = batch.shape[:-1].numel()
        positions = torch.arange(count).view(*batch.shape[:-1], 1) + seen
        units.append(codes.indices[active].cpu())
        values.append(codes.values[active].float().cpu())
        places.append(positions.expand(active.shape)[active.cpu()])
        seen += count
    order = torch.argsort(torch.cat(units), stable=True)
    counts = torch.bincount(torch.cat(units), minlength=layer.config.n_units)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return Firing(tokens, torch.cat(places)[order], torch.cat(values)[order], starts)
