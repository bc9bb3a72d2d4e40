"""One layer being trained: its optimizer, its loss, its counters."""

import math
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mxd.kernels import gate
from mxd.layers import Codes, Layer, SparseLayer
from mxd.training.losses import loss_function, normalized_mse
from mxd.training.recipe import OptimizerRecipe
from mxd.training.schedule import Schedule


class Window(NamedTuple):
    """Means over the steps since the last look."""

    loss: float
    """What was minimised."""
    nmse: float
    """Normalised mean squared error."""
    l0: float | None
    """Active units for a token."""
    dead_fraction: float | None
    """Share of units that have not fired for `dead_after_tokens`."""
    lr: float
    """Learning rate of the last step."""


class Student:
    """A layer, and what it takes to train it on batches of (x, y)."""

    def __init__(
        self,
        name: str,
        site: str,
        layer: Layer,
        *,
        lr: float,
        seed: int,
        recipe: OptimizerRecipe,
        schedule: Schedule,
        variant: str | None = None,
        start: str = "paper",
    ) -> None:
        self.variant, self.start = variant, start
        self.name, self.site, self.layer, self.seed = name, site, layer, seed
        self.recipe, self.schedule, self.lr = recipe, schedule, lr
        self.steps = self.tokens = 0
        self.nmse_history: list[float] = []
        self.diverged = False
        device = layer.bias.device
        self._loss = loss_function(recipe.loss)
        self._k_draws = torch.Generator().manual_seed(seed)
        self._optimizer = torch.optim.AdamW(
            layer.parameters(),
            lr=lr,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        units = layer.config.n_units
        self._silent_tokens = torch.zeros(units, dtype=torch.int64, device=device)
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, nmse, l0
        self._window_steps = 0

    def step(
        self,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        context: AbstractContextManager[object],
    ) -> None:
        """One optimizer step on a batch of activations.

        Args:
            x: what the layer is fed, (tokens, d_in).
            y: what it should give, (tokens, d_out).
            context: autocast, or nothing.
        """
        self.layer.train()
        with context:
            codes, prediction = self._predict(x)
            prediction = prediction.float()
            loss = self._loss(prediction, y) + self._penalties(codes, x, y - prediction.detach())
        loss.backward()
        self._update()
        with torch.no_grad():
            self._count(codes, loss, normalized_mse(prediction, y), len(x))

    def _predict(self, x: Tensor) -> tuple[Codes | None, Tensor]:
        if not isinstance(self.layer, SparseLayer):
            return None, self.layer(x)
        override = None
        if self.layer.config.random_k:
            override = self.layer.training_k(self._k_draws)
        codes = self.layer.encode(x, override)
        return codes, self.layer.decode(codes, x)

    def _penalties(self, codes: Codes | None, x: Tensor, residual: Tensor) -> Tensor | float:
        if codes is None or not isinstance(self.layer, SparseLayer):
            return 0.0
        total: Tensor | float = 0.0
        if self.layer.config.sparsity == "l1":
            total = self.recipe.l1_coefficient * codes.values.sum(-1).mean()
        if self.recipe.auxk_coefficient:
            dead = self._silent_tokens >= self.recipe.dead_after_tokens
            auxiliary = dead_units_loss(self.layer, x, residual, dead, self.recipe.auxk_units)
            total = total + self.recipe.auxk_coefficient * auxiliary
        return total

    def _update(self) -> None:
        sparse = self.layer if isinstance(self.layer, SparseLayer) else None
        unit_norm = sparse is not None and sparse.config.unit_norm
        if sparse is not None and unit_norm:
            sparse.remove_parallel_gradient()
        if self.recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.layer.parameters(), self.recipe.clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * self.schedule.factor(self.steps)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if sparse is not None and unit_norm:
            sparse.normalise_units()

    def _count(self, codes: Codes | None, loss: Tensor, nmse: Tensor, tokens: int) -> None:
        self.steps += 1
        self.tokens += tokens
        self._window_steps += 1
        self._sums[0] += loss
        self._sums[1] += nmse
        if codes is not None:
            active = codes.values > 0
            self._sums[2] += active.sum() / tokens
            hits = torch.zeros_like(self._silent_tokens)
            hits.scatter_add_(0, codes.indices.reshape(-1), active.reshape(-1).long())
            self._silent_tokens += tokens
            self._silent_tokens.masked_fill_(hits > 0, 0)

    def take_window(self) -> Window:
        """Means since the last call; the one place that waits for the device."""
        loss, nmse, l0 = (self._sums / max(1, self._window_steps)).tolist()
        dead = None
        if len(self._silent_tokens):
            silent = self._silent_tokens >= min(self.recipe.dead_after_tokens, self.tokens)
            dead = float(silent.double().mean())
        self._sums.zero_()
        self._window_steps = 0
        self.diverged = self.diverged or not math.isfinite(nmse + loss)
        self.nmse_history.append(nmse)
        lr = float(self._optimizer.param_groups[0]["lr"])
        return Window(loss, nmse, l0 if dead is not None else None, dead, lr)


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
    values, places = gate(fed, linear.weight[members], linear.bias[members], wanted)
    codes = Codes(values, members[places], layer.config.n_units)
    error = (residual - layer.contribution(codes, x).float()).square().sum()
    return error / residual.square().sum().clamp(min=torch.finfo(residual.dtype).tiny)
