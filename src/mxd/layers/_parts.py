"""The pieces that several architectures are made of."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mxd.errors import UserError
from mxd.kernels import check_numbers, gate
from mxd.layers.codes import Codes
from mxd.layers.config import SparseConfig


def linear(d_in: int, d_out: int) -> nn.Linear:
    """A linear map that starts like nn.Linear, with its bias at zero (paper's recipe)."""
    layer = nn.Linear(d_in, d_out)
    nn.init.zeros_(layer.bias)
    return layer


def unit_table(n: int, d_out: int) -> nn.Parameter:
    """One row for each unit, started like the weight of nn.Linear(n, d_out)."""
    return nn.Parameter(torch.empty(n, d_out).uniform_(-(n**-0.5), n**-0.5))


def hidden_units(
    x: Float[Tensor, "*batch d_in"],
    encoder: nn.Linear,
    encoder_up: nn.Linear | None,
    phi: nn.Module,
) -> Float[Tensor, "*batch d_hidden"]:
    """z = φ(E x + e), or for a GLU z = φ(E_g x + e_g) ⊙ (E_u x + e_u)."""
    z: Tensor = phi(encoder(x))
    return z if encoder_up is None else z * encoder_up(x)


def select_units(
    x: Float[Tensor, "*batch d_in"],
    router: nn.Linear,
    config: SparseConfig,
    k: int | None = None,
    skip: int = 0,
    centre: Float[Tensor, " d_in"] | None = None,
) -> Codes:
    """Codes of the active units: top-k, or every positive coefficient under `l1`.

    The first `skip` units are left out of the choice, and of k; `centre` is taken from x first.

    Raises:
        UserError: k leaves no unit to choose, or NaN in x.
    """
    if k is not None and k < config.least_k:
        raise UserError(f"got k={k}, expected at least {config.least_k}")
    check_numbers(x)  # x itself: a layer whose own centre is NaN gives NaN, as other layers do
    if centre is not None:
        x = x - centre
    if config.sparsity == "l1" and k is None:
        wanted = _most_active(x, router.weight[skip:], router.bias[skip:])
    else:
        wanted = min(config.k if k is None else k, config.n_units) - skip
    # Skipped in the gate: a slice of the weights would cost a second gradient of their size.
    values, indices = gate(x, router.weight, router.bias, wanted, skip=skip, check=False)
    return Codes(values, indices, config.n_units)


@torch.no_grad()
def _most_active(x: Tensor, weight: Tensor, bias: Tensor, tile: int = 1024) -> int:
    """The largest number of units that any token of the batch turns on (at least 1)."""
    flat = x.reshape(-1, x.shape[-1])
    counts = [
        (F.linear(rows, weight, bias) > 0).sum(-1).max() for rows in flat.split(tile) if len(rows)
    ]
    return max(1, int(torch.stack(counts).max())) if counts else 1
