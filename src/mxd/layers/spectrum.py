"""Singular values of experts W_n = D diag(c_n), without making any W_n."""

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK_ELEMENTS = 1 << 22
"""Elements of the matrices that are decomposed at once: 32 MiB in float64."""


@torch.no_grad()
def decoder_core(decoder: Float[Tensor, "d_hidden d_out"]) -> Float[Tensor, "rows d_out"]:
    """The smallest matrix that has D's singular values, whatever D's columns are scaled with.

    With D = QR, W_n = Q (R diag(c_n)) has the singular values of R diag(c_n), which is O × O.

    Args:
        decoder: D, (H, O).

    Returns:
        R where H > O, else D itself; in float64, on the CPU where the device has no float64.
    """
    wide = in_double(decoder)
    return torch.linalg.qr(wide, mode="r").R if wide.shape[0] > wide.shape[1] else wide


@torch.no_grad()
def expert_singular_values(
    core: Float[Tensor, "rows d_out"], modulators: Float[Tensor, "experts d_out"]
) -> Float[Tensor, "experts singular_values"]:
    """All min(H, O) singular values of each W_n, the largest first, a few matrices at a time.

    Args:
        core: what `decoder_core` gives of D.
        modulators: rows c_n of the experts to look at.
    """
    rows = in_double(modulators)
    at_once = max(1, _BLOCK_ELEMENTS // core.numel())
    blocks = [torch.linalg.svdvals(core * c[:, None, :]) for c in rows.split(at_once)]
    return torch.cat(blocks)


def in_double(values: Tensor) -> Tensor:
    """In float64, without gradient, on the CPU where the device has none."""
    plain = values.detach()
    return plain.cpu().double() if plain.device.type == "mps" else plain.double()
