"""An auxiliary loss that gives dead units something to do."""

import torch
from jaxtyping import Float
from torch import Tensor

from mxd.layers import SparseLayer
from mxd.training.companions import ALONE, Companions


def dead_units_loss(
    layer: SparseLayer,
    x: Float[Tensor, "tokens d_in"],
    residual: Float[Tensor, "own d_out"],
    dead: Tensor,
    units: int | None = None,
    companions: Companions = ALONE,
) -> Tensor:
    """AuxK (Gao et al., 2024, appendix A.2): dead units reconstruct what the live ones left over.

    Args:
        layer: the layer.
        x: its input, (tokens, d_in).
        residual: y − ŷ, detached, of the rows whose dense part is computed here, (own, d_out).
        dead: which units count as dead, (N,); those that are here.
        units: dead units to use for a token; None takes half of d_out.
        companions: the processes that train the layer too, all of which call this alike.

    Returns:
        Σ‖e − ê‖² / Σ‖e‖² of the residual e and its reconstruction ê; 0 where no unit is dead. Of
        several processes, this one's part of it: the upper sum is over its own rows.
    """
    count = companions.count(dead)
    if not count:
        return residual.new_zeros(())
    wanted = min(count, units or max(1, layer.config.d_out // 2))
    codes = companions.encode_among(layer, x, dead.nonzero().squeeze(-1), wanted)
    combined = companions.combined(layer, codes)
    revived = layer.contributed(combined, x[companions.own]).float()
    error = (residual - revived).square().sum()
    (whole,) = companions.summed(residual.square().sum())
    return error / whole.clamp(min=torch.finfo(residual.dtype).tiny)
