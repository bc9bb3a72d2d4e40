"""Which of some layers have units, and how long a text a model reads."""

from collections.abc import Mapping
from typing import Any

from mxd.errors import UserError
from mxd.layers import Layer, SparseLayer


def sparse_layers(
    layers: Mapping[str, Mapping[str, Layer]],
) -> dict[str, dict[str, SparseLayer]]:
    """The layers with experts or latents, by site and name; sites without any are left out."""
    kept = {
        site: {name: layer for name, layer in of.items() if isinstance(layer, SparseLayer)}
        for site, of in layers.items()
    }
    return {site: of for site, of in kept.items() if of}


def some_sparse_layers(
    layers: Mapping[str, Mapping[str, Layer]], purpose: str
) -> dict[str, dict[str, SparseLayer]]:
    """The same, where one is needed.

    Raises:
        UserError: no layer has units.
    """
    found = sparse_layers(layers)
    if not found:
        raise UserError(
            f"got no layer with units {purpose}, expected at least one with experts or latents"
        )
    return found


def most_positions(model: Any) -> int | None:
    """Tokens of the longest text that a model can read; None where it does not say."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 1 else None
