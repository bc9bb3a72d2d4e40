"""AdamW with what is done to a layer's gradients before a step and to its weights after it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mxd.layers import Layer, SparseLayer
from mxd.training.companions import ALONE, Companions
from mxd.training.guard import Guard
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
        companions: who has parts of the gradients.
    """

    def __init__(
        self,
        layer: Layer,
        recipe: OptimizerRecipe,
        lr: float,
        companions: Companions = ALONE,
    ) -> None:
        self._companions = companions
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

    @lr.setter
    def lr(self, rate: float) -> None:
        for group in self.param_groups:
            group["lr"] = rate

    def update(self, lr: float, loss: Tensor, guard: Guard, step: int) -> None:
        """One step at this learning rate, with all that belongs to it; it uses the gradients up.

        Args:
            lr: learning rate.
            loss: whose gradients these are.
            guard: keeps the step from being made where loss or gradients are not finite (where the
                fused kernel runs: CPU and CUDA).
            step: the step's number, from 1.
        """
        if self._unit_norm is not None:
            self._unit_norm.remove_parallel_gradient()
        norm = self._companions.gradient_norm(self.param_groups[0]["params"])
        guard.watch(loss, norm, step)
        if self._clip_norm is not None:
            self._clip((norm / self._clip_norm).clamp(min=1.0).float())
        if self._fused:
            self.found_inf = guard.stopped
        self.lr = lr
        self.step()
        self.zero_grad(set_to_none=True)
        if self._unit_norm is not None:
            self._unit_norm.normalise_units()

    def moments(self, layer: Layer) -> dict[str, Tensor]:
        """AdamW's state by name, `<parameter>.<what>`; its own tensors, none before a step."""
        return {
            f"{name}.{what}": value
            for name, parameter in layer.named_parameters()
            for what, value in self.state.get(parameter, {}).items()
        }

    def load_moments(self, layer: Layer, moments: Mapping[str, Tensor]) -> None:
        """Go on with what `moments` gave."""
        for name, parameter in layer.named_parameters():
            state = {
                what: moments[f"{name}.{what}"]
                for what in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}.{what}" in moments
            }
            if state:
                on_cpu = not self._fused or parameter.device.type == "cpu"
                self.state[parameter] = {
                    what: value.to("cpu" if what == "step" and on_cpu else parameter.device)
                    for what, value in state.items()
                }

    def _gradients(self) -> list[Tensor]:
        return [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]

    def _clip(self, excess: Tensor) -> None:
        """Divide the gradients by how many times too large they are together."""
        if self._fused:
            # The fused kernel divides by this as it reads: one pass over the gradients less.
            self.grad_scale = excess
        else:
            torch._foreach_div_(self._gradients(), excess)
