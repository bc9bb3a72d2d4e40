"""Geometry and specialisation of all layers with units, from one pass over a text."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mxd.data import Contexts
from mxd.evaluation._layers import sparse_layers
from mxd.evaluation.figures import finite
from mxd.evaluation.firing import find_firings
from mxd.evaluation.geometry import Geometry, geometry
from mxd.evaluation.specialisation import Specialisation, specialisation
from mxd.layers import Layer

UNIT_TOKENS = 50_000
"""Tokens that firing is noted on, at most: memory grows with tokens · (d_in + d_out + K)."""


@dataclass(frozen=True, kw_only=True)
class UnitFigures:
    """What the units of one layer are like."""

    name: str
    """Name of the student."""
    site: str
    """Name of the module that it replaces."""
    architecture: str
    """Its architecture."""
    geometry: Geometry | None
    """Rank and likeness of live units; None where not asked for."""
    specialisation: Specialisation
    """Usage, shares and overlap."""


def measure_units(
    model: nn.Module,
    layers: Mapping[str, Mapping[str, Layer]],
    contexts: Iterable[Contexts],
    *,
    tokens: int = UNIT_TOKENS,
    rank_experts: int = 64,
    excluded_token_ids: Sequence[int] = (),
    seed: int = 0,
    on_layer: Callable[[str, str], None] | None = None,
) -> list[UnitFigures]:
    """Measure the units of every layer that has some.

    Args:
        model: the base model.
        layers: layers by the name of their site and their own; those without units are passed over.
        contexts: held-out text.
        tokens: how many tokens to read, `UNIT_TOKENS` at most.
        rank_experts: live experts of each MxD to decompose; 0 leaves geometry out.
        excluded_token_ids: tokens that are not counted.
        seed: of the draws of experts and the chance level of overlaps.
        on_layer: called with site and name before each layer.
    """
    sparse = sparse_layers(layers)
    found: list[UnitFigures] = []
    if not sparse:
        return found
    for site, name, firing in find_firings(
        model, sparse, contexts, tokens=min(tokens, UNIT_TOKENS)
    ):
        if on_layer is not None:
            on_layer(site, name)
        layer, shape = sparse[site][name], None
        if rank_experts:
            shape = geometry(layer, experts=rank_experts, live=firing.counts > 0, seed=seed)
        usage = specialisation(layer, firing, excluded_token_ids=excluded_token_ids, seed=seed)
        found.append(
            UnitFigures(
                name=name,
                site=site,
                architecture=layer.config.architecture,
                geometry=shape,
                specialisation=usage,
            )
        )
    return found


def unit_documents(figures: Sequence[UnitFigures]) -> dict[str, list[dict[str, Any]]]:
    """The lists `geometry` and `specialisation` of an evaluation's document, ready for JSON."""

    def of(one: UnitFigures) -> dict[str, Any]:
        return {"name": one.name, "site": one.site, "architecture": one.architecture}

    shapes = [{**of(one), **one.geometry.to_dict()} for one in figures if one.geometry is not None]
    usage = [{**of(one), **one.specialisation.to_dict()} for one in figures]
    return {"geometry": finite(shapes), "specialisation": finite(usage)}
