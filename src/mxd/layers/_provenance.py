"""Where a layer comes from: kept beside its weights and written into its folder."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Provenance:
    """The base model, site and run that a layer was trained for."""

    base_model: str | None = None
    """Hub id or folder of the base model."""
    base_revision: str | None = None
    """Commit of the base model on the hub, where known."""
    base_fingerprint: str | None = None
    """Fingerprint of the dense weights at the site (`mxd.host.site_fingerprint`)."""
    site: str | None = None
    """Name of the module that the layer replaces."""
    student: str | None = None
    """Name of the layer within its run."""
    seed: int | None = None
    """Seed that the layer was initialised and trained with."""
    excluded_token_ids: tuple[int, ...] = ()
    """Tokens the layer never saw in training; a graft keeps the original output at them."""
    training: dict[str, Any] = field(default_factory=dict)
    """Summary of the training: tokens, steps, loss minimised, learning rate, text."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """Measured figures, as `mxd eval` writes them."""
    edit_history: tuple[str, ...] = ()
    """Edits made to the layer after training, in their order (`mxd.edited`)."""
