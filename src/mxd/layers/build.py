"""Build any architecture for a given boundary, parameter-matched."""

import logging
from collections.abc import Mapping
from typing import Any

from mxd.errors import UserError
from mxd.layers.base import Layer
from mxd.layers.config import DenseBranchConfig, LayerConfig, SparseConfig
from mxd.layers.matching import match_experts, match_latents
from mxd.layers.mxd import MxDConfig
from mxd.layers.registry import layer_class

logger = logging.getLogger(__name__)


def build(
    architecture: str,
    *,
    d_in: int,
    d_out: int,
    d_hidden: int,
    activation: str,
    glu: bool,
    k: int,
    width: int | None = None,
    expansion: int | float = 32,
    rule: str = "exact",
    options: Mapping[str, Any] | None = None,
) -> Layer:
    """A freshly initialised layer of any architecture.

    Args:
        architecture: a registered name.
        d_in: width of the boundary's input.
        d_out: width of the boundary's output.
        d_hidden: H for the architectures with dense hidden units.
        activation: φ of those, by its name in transformers.
        glu: whether those have the GLU form.
        k: how many units may be active.
        width: number of gated units; None matches the parameters of a transcoder.
        expansion: width of that transcoder in units of d_in.
        rule: how an MxD is matched, see `match_experts`.
        options: further fields of the configuration; those the architecture lacks are left out.

    Raises:
        UserError: unknown architecture or activation, k or width out of range.
    """
    cls = layer_class(architecture)
    config_class = cls.config_class
    if width is None:
        width = (
            match_experts(d_in, d_out, d_hidden, expansion, glu, rule)
            if architecture == "mxd"
            else match_latents(architecture, d_in, d_out, d_hidden, expansion, glu)
        )
    fields: dict[str, Any] = {"d_in": d_out if cls.reads == "output" else d_in, "d_out": d_out}
    if issubclass(config_class, DenseBranchConfig):
        fields |= {"d_hidden": d_hidden, "activation": activation, "glu": glu}
    if issubclass(config_class, SparseConfig):
        fields |= {"k": k, "n_experts" if config_class is MxDConfig else "n_latents": width}
    if architecture == "skip_transcoder":
        fields["skip"] = True
    fields |= _applicable(config_class, architecture, options or {})
    return cls(config_class(**fields))


def _applicable(
    config_class: type[LayerConfig], architecture: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    known = config_class.__dataclass_fields__
    no_direction = architecture in ("skip_transcoder", "mlp_transcoder")  # rows start at zero
    unknown = set(options) - {"sparsity", "random_k", "unit_norm", "shared_experts"}
    if unknown:
        raise UserError(f"got layer options {sorted(unknown)}, expected fields of a configuration")
    if options.get("unit_norm") and no_direction:
        logger.warning("unit_norm is off for %s: its rows start at zero", architecture)
    return {
        name: value
        for name, value in options.items()
        if name in known and not (name == "unit_norm" and no_direction)
    }
