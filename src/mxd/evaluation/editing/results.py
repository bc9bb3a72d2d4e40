"""What an editing study finds, as plain data."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from mxd.evaluation.documents import Estimate
from mxd.evaluation.figures import finite


@dataclass(frozen=True)
class EditEffect:
    """What a change of a layer does to the model on two texts, in nats per token.

    Rises are against the model with the unedited layer in place; None where a figure has no value.
    """

    target_rise: float
    """Rise of the cross-entropy on the target text."""
    target_rise_se: float | None
    """Its standard error, paired by document."""
    keep_rise: float
    """Rise on the text to keep: the collateral damage."""
    keep_rise_se: float | None
    """Its standard error, paired by document."""
    selectivity: float
    """target_rise − keep_rise."""
    selectivity_se: float | None
    """Its standard error; the two texts are taken for independent."""
    ratio: float | None
    """target_rise / keep_rise, where both are above zero."""
    target_rise_over_base: float
    """Cross-entropy on the target text above that of the base model without any layer."""
    keep_rise_over_base: float
    """The same on the text to keep."""


def effect_of(target: Estimate, keep: Estimate, target_gap: float, keep_gap: float) -> EditEffect:
    """An effect from the two rises and the unedited layer's own rises over the base model."""
    both = target.mean > 0 and keep.mean > 0
    return EditEffect(
        target_rise=target.mean,
        target_rise_se=_known(target.standard_error),
        keep_rise=keep.mean,
        keep_rise_se=_known(keep.standard_error),
        selectivity=target.mean - keep.mean,
        selectivity_se=_known(math.hypot(target.standard_error, keep.standard_error)),
        ratio=target.mean / keep.mean if both else None,
        target_rise_over_base=target_gap + target.mean,
        keep_rise_over_base=keep_gap + keep.mean,
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class EditSet:
    """One set of units, all scaled by the study's factor at once."""

    ranking: str
    """`attribution`, `probing`, or a control: `random`, `random_matched`."""
    m: int
    """How many units were asked for."""
    draw: int | None
    """Number of the random draw, from 0; None for a ranking."""
    units: tuple[int, ...]
    """The units, best first; fewer than `m` where the layer has fewer live ones."""
    frequency: float
    """Sum of their firing frequencies on the ranking halves: units a token."""
    effect: EditEffect
    """What it does."""

    def to_dict(self) -> dict[str, Any]:
        """One flat object, ready for JSON."""
        plain = asdict(self)
        effect = plain.pop("effect")
        return {**plain, "units": list(self.units), **effect}


@dataclass(frozen=True)
class LayerEditing:
    """A layer's part of a study."""

    name: str
    """Name of the student."""
    site: str
    """Its site."""
    architecture: str
    """Its architecture."""
    k: int
    """Its K."""
    width: int
    """Its number of units."""
    live_units: int
    """Units that fire somewhere in the ranking halves; only those are edited."""
    target_cross_entropy: float
    """With the unedited layer in place, on the target text."""
    keep_cross_entropy: float
    """The same on the text to keep."""
    ablation: dict[str, EditEffect | None]
    """The whole output at `zero` and at its `mean` over training tokens (None if unknown)."""
    edits: list[EditSet]
    """Every set of units."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "edits": [edit.to_dict() for edit in self.edits]}


@dataclass(frozen=True)
class EditingStudy:
    """A whole study; `to_dict` is the document that `mxd edit --study --json` writes."""

    target: dict[str, Any]
    """The target text: `text`, `split`, tokens and documents of the two halves."""
    keep: dict[str, Any]
    """The text to keep, likewise."""
    tokens: int
    """Tokens that rises were measured on, both texts together."""
    scale: float
    """What the units' contributions were multiplied with."""
    rankings: tuple[str, ...]
    """How units were chosen; the first is what `random_matched` is matched to."""
    base_target_cross_entropy: float
    """Of the base model on the target text."""
    base_keep_cross_entropy: float
    """The same on the text to keep."""
    layers: list[LayerEditing]
    """One entry for each layer."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: what is not finite becomes None."""
        layers = [layer.to_dict() for layer in self.layers]
        plain = {**asdict(self), "rankings": list(self.rankings), "layers": layers}
        return {"kind": "editing", **{key: finite(value) for key, value in plain.items()}}
