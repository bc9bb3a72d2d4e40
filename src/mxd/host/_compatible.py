"""Whether a layer belongs where it is about to be grafted."""

from __future__ import annotations

import warnings

from torch import nn

from mxd.errors import UserError
from mxd.host._site import MLPSite, site_fingerprint
from mxd.host._wrapper import reads_output
from mxd.layers._provenance import Provenance


class BaseModelMismatch(UserWarning):
    """A layer is grafted into weights, or at a site, that it was not trained for."""


def check_widths(site: MLPSite, layer: nn.Module) -> None:
    """Compare the widths that a layer's configuration states with the site's.

    Raises:
        UserError: they differ.
    """
    config = getattr(layer, "config", None)
    wanted_in = site.d_out if reads_output(layer) else site.d_in
    for name, wanted in (("d_in", wanted_in), ("d_out", site.d_out)):
        width = getattr(config, name, None)
        if isinstance(width, int) and width != wanted:
            raise UserError(
                f"got a {type(layer).__name__} with {name} {width} for {site.name}, expected "
                f"{name} {wanted}; choose a layer that was made for this model and site"
            )


def check_provenance(model: nn.Module, site: MLPSite, layer: nn.Module) -> None:
    """Warn (`BaseModelMismatch`) where a layer's provenance contradicts its new place."""
    provenance = getattr(layer, "provenance", None)
    if not isinstance(provenance, Provenance):
        return
    actual = getattr(getattr(model, "config", None), "_name_or_path", None) or type(model).__name__
    recorded = provenance.base_model or "an unnamed model"
    problems = []
    if provenance.site is not None and provenance.site != site.name:
        problems.append(f"it was trained at site {provenance.site}")
    if provenance.base_fingerprint is not None:
        fingerprint = site_fingerprint(site)
        if fingerprint != provenance.base_fingerprint:
            problems.append(
                f"it was trained for {recorded} with weights {provenance.base_fingerprint} "
                f"at its site, and {actual} has {fingerprint} here"
            )
    elif provenance.base_model is not None and provenance.base_model != actual:
        problems.append(f"it was trained for {recorded}, and this model is {actual}")
    if problems:
        warnings.warn(
            f"the {type(layer).__name__} grafted at {site.name} may not fit: "
            + "; ".join(problems),
            BaseModelMismatch,
            stacklevel=4,
        )
