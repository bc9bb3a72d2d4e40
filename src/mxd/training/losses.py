"""What is minimised, by name."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mxd.errors import UserError

Prediction = Float[Tensor, "tokens d_out"]
Loss = Callable[[Tensor, Tensor], Tensor]


def normalized_mse(prediction: Prediction, target: Prediction) -> Float[Tensor, ""]:
    """Mean over tokens of ‖ŷ − y‖² / ‖y‖²; tokens with y = 0 are left out."""
    squared = target.square().sum(-1)
    known = squared > 0
    errors = (prediction - target).square().sum(-1)
    ratios = torch.where(known, errors / torch.where(known, squared, 1.0), 0.0)
    return ratios.sum() / known.sum().clamp(min=1)


def reference(prediction: Prediction, target: Prediction) -> Float[Tensor, ""]:
    """Mean over tokens and output dimensions of (ŷ − y)² / ‖y‖₂, as the reference code has it.

    It divides by the norm, not by its square, so it depends on the scale of y.
    """
    norms = target.norm(dim=-1, keepdim=True)
    known = norms > 0
    terms = torch.where(known, (prediction - target).square() / torch.where(known, norms, 1.0), 0.0)
    tokens: Tensor = known.sum().clamp(min=1)
    return terms.sum() / (tokens * target.shape[-1])


LOSSES: dict[str, Loss] = {"normalized_mse": normalized_mse, "reference": reference}


def loss_function(name: str) -> Loss:
    """The loss of that name.

    Raises:
        UserError: unknown; the message lists the known ones.
    """
    if name not in LOSSES:
        raise UserError(f"got loss {name!r}, expected one of {', '.join(LOSSES)}")
    return LOSSES[name]
