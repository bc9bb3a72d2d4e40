from collections.abc import Callable
from typing import Any

import pytest

Document = dict[str, Any]

_LAYER: Document = {
    "site": "transformer.h.3.mlp",
    "k": 8,
    "width": 6144,
    "seed": 42,
    "parameters": 2_365_632,
    "active_parameters": 3_272,
    "nmse": 0.285,
    "static_nmse": None,
    "modulation_share": None,
    "delta_cross_entropy": 0.042,
    "delta_cross_entropy_se": 0.001,
    "loss_recovered": 0.93,
    "l0": 7.9,
    "dead_fraction": 0.31,
    "max_expert_frequency": 0.25,
}


@pytest.fixture
def make_layer() -> Callable[..., Document]:
    """One layer's figures: a transcoder's, with changes."""

    def make(architecture: str = "transcoder", **changes: Any) -> Document:
        layer = _LAYER | {"architecture": architecture} | changes
        name = f"{architecture}-k{layer['k'] or 0}-w{layer['width']}-s{layer['seed']}"
        return {"name": name} | layer

    return make


@pytest.fixture
def make_evaluation(make_layer: Callable[..., Document]) -> Callable[..., Document]:
    """A document of `mxd eval --json` around some layers."""

    def make(*layers: Document, **changes: Any) -> Document:
        sites = dict.fromkeys(layer["site"] for layer in layers)
        ablations = {"zero_ablation_cross_entropy": 3.81, "mean_ablation_cross_entropy": 3.62}
        document = {
            "tokens": 200_064,
            "documents": 412,
            "base_cross_entropy": 3.207,
            **ablations,
            "static_reference": "training",
            "layers": list(layers),
            "sites": [{"site": site, **ablations} for site in sites],
            "together": [],
        }
        return document | changes

    return make


@pytest.fixture
def evaluation(
    make_layer: Callable[..., Document], make_evaluation: Callable[..., Document]
) -> Document:
    """All architectures at K = 4 and 8, out of order, and both controls."""
    unused = dict.fromkeys(("k", "width", "l0", "dead_fraction", "max_expert_frequency"))
    return make_evaluation(
        make_layer("dense_mlp", nmse=0.224, delta_cross_entropy=0.036, **unused),
        make_layer("mlp_transcoder", nmse=0.232, active_parameters=299_000),
        *(
            layer
            for k, shift in ((8, 0.0), (4, 0.04))
            for layer in (
                make_layer("topk_autoencoder", k=k, nmse=0.251 + shift),
                make_layer("transcoder", k=k, nmse=0.285 + shift),
                make_layer("skip_transcoder", k=k, nmse=0.264 + shift, active_parameters=40_100),
                make_layer(
                    "mxd",
                    k=k,
                    width=5372,
                    nmse=0.229 + shift,
                    static_nmse=0.94,
                    modulation_share=0.941,
                    delta_cross_entropy=0.03,
                    active_parameters=302_000,
                ),
            )
        ),
    )
