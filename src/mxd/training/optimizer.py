"""AdamW with what is done to a layer's gradients before a step and to its weights after it."""

import torch
from torch import Tensor

from mxd.layers import Layer, SparseLayer
from mxd.training.recipe import OptimizerRecipe


class LayerAdamW(torch.optim.AdamW):
    """PyTorch's fused AdamW for one layer, with clipping and unit-norm projection.

    Nothing waits for the device. Gradients are dense: row-sparse ones would not give AdamW's step,
    since a unit that is not selected goes on moving by its momentum, and only one that never had a
    gradient stays where it is (with a weight decay of 0).

    Args:
        layer: the layer to train.
        recipe: betas, weight decay, and the norm to clip at.
        lr: learning rate.
    """

    def __init__(self, layer: Layer, recipe: OptimizerRecipe, lr: float) -> None:
        self._clip_norm = recipe.clip_norm
        self._fused = layer.bias.device.type in ("cpu", "cuda")
        self._unit_norm: SparseLayer | None = None
        if isinstance(layer, SparseLayer) and layer.config.unit_norm:
            self._unit_norm = layer
        super().__init__(
            layer.parameters(),
            lr=lr,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=self._fused,
        )

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self.param_groups[0]["lr"])

    def update(self, lr: float) -> None:
        """One step at this learning rate, with all that belongs to it; it uses the gradients up."""
        if self._unit_norm is not None:
            self._unit_norm.remove_parallel_gradient()
        if self._clip_norm is not None:
            self._clip(self._clip_norm)
        for group in self.param_groups:
            group["lr"] = lr
        self.step()
        self.zero_grad(set_to_none=True)
        if self._unit_norm is not None:
            self._unit_norm.normalise_units()

    def _clip(self, largest: float) -> None:
        gradients = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        excess = _excess(gradients, largest)
        if self._fused:
            # The fused kernel divides by this as it reads: one pass over the gradients less.
            self.grad_scale = excess
        else:
            torch._foreach_div_(gradients, excess)


def _excess(gradients: list[Tensor], largest: float) -> Tensor:
    """How many times too large the gradients' common norm is, at least 1."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return (norm / largest).clamp(min=1.0).float()
