"""An auxiliary loss that gives dead units something to do."""

import torch
from jaxtyping import Float
from torch import Tensor

from mxd.kernels import gate
from mxd.layers import Codes, SparseLayer


def dead_units_loss(
    layer: SparseLayer,
    x: Float[Tensor, "tokens d_in"],
    residual: Float[Tensor, "tokens d_out"],
    dead: Tensor,
    units: int | None = None,
) -> Tensor:
    """AuxK (Gao et al., 2024, appendix A.2): dead units reconstruct what the live ones left over.

    Args:
        layer: the layer.
        x: its input, (tokens, d_in).
        residual: y − ŷ, detached, (tokens, d_out).
        dead: which units count as dead, (N,).
        units: dead units to use for a token; None takes half of d_out.

    Returns:
        Σ‖e − ê‖² / Σ‖e‖² of the residual e and its reconstruction ê; 0 where no unit is dead.
    """
    members = dead.nonzero().squeeze(-1)
    if not len(members):
        return residual.new_zeros(())
    wanted = min(len(members), units or max(1, layer.config.d_out // 2))
    linear = layer.gate_linear
    fed = x - layer.bias if layer.reads == "output" else x
    values, places = gate(fed, linear.weight[members], linear.bias[members], wanted, check=False)
    codes = Codes(values, members[places], layer.config.n_units)
    error = (residual - layer.contribution(codes, x).float()).square().sum()
    return error / residual.square().sum().clamp(min=torch.finfo(residual.dtype).tiny)
