"""A layer with units scaled, removed or replaced: the paper's promise of editing."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from mxd.errors import UserError
from mxd.layers.base import Layer, SparseLayer
from mxd.layers.edits import Edit


def edited(layer: Layer, edits: Edit | Sequence[Edit]) -> SparseLayer:
    """A copy of a layer with edits made to it; it is saved, loaded and grafted like any other.

    Edits without a condition become weights, all at once: a unit that is replaced takes the row
    that the other had before. Scaling multiplies the unit's row, removing sets its gate to a
    negative constant. Edits with a condition become part of the configuration and change the codes
    of each token (`Edit`); they use the rows that the layer has after the others, and a unit that
    is removed is never active, so a condition on it never holds.

    The copy's record says what was done (`provenance.edit_history`); figures measured before, and
    the mean modulation, are not its own and are left out.

    Args:
        layer: a layer with units.
        edits: one edit, or several.

    Raises:
        UserError: no edit, a layer without units, a unit that the layer does not have, or a factor
            that its numbers do not hold.
    """
    chosen = [edits] if isinstance(edits, Edit) else list(edits)
    if not isinstance(layer, SparseLayer):
        raise UserError(f"got a {layer.config.architecture} layer, which has no units to edit")
    if not chosen:
        raise UserError("got no edits, expected at least one, such as Edit(21, scale=0)")
    for edit in chosen:
        edit.check(layer.config.n_units)
    changed = copy.deepcopy(layer)
    _edit_weights(changed, [edit for edit in chosen if not edit.conditional])
    conditional = tuple(edit for edit in chosen if edit.conditional)
    changed.config = replace(layer.config, edits=(*layer.config.edits, *conditional))
    changed.statistics.pop("mean_modulation", None)
    origin = layer.provenance
    changed.provenance = replace(
        origin, evaluation={}, edit_history=(*origin.edit_history, *map(str, chosen))
    )
    return changed


@torch.no_grad()
def _edit_weights(layer: SparseLayer, edits: Sequence[Edit]) -> None:
    before = layer.unit_rows.clone()
    always_on = getattr(layer.config, "shared_experts", 0)
    for edit in edits:  # a row is replaced first and scaled then, in whatever order they come
        if edit.replace_by is not None:
            layer.unit_rows[edit.unit] = before[edit.replace_by]
    for edit in edits:
        if edit.remove and edit.unit >= always_on:
            layer.gate_linear.weight[edit.unit] = 0
            layer.gate_linear.bias[edit.unit] = -1
        elif edit.replace_by is None:
            layer.unit_rows[edit.unit] *= edit.factor
            if not bool(layer.unit_rows[edit.unit].isfinite().all()):
                raise UserError(
                    f"got the edit {str(edit)!r}, which {layer.unit_rows.dtype} does not hold, "
                    "expected a smaller factor"
                )
