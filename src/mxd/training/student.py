"""One layer being trained: its optimizer, its loss, its counters."""

import math
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mxd.layers import Codes, Layer, SparseLayer
from mxd.training.counters import Counters
from mxd.training.dead_units import dead_units_loss
from mxd.training.losses import loss_function, normalized_mse
from mxd.training.micro_batches import MicroBatches
from mxd.training.optimizer import LayerAdamW
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
        self._loss = loss_function(recipe.loss)
        self._k_draws = torch.Generator().manual_seed(seed)
        self._optimizer = LayerAdamW(layer, recipe, lr)
        self._counters = Counters(layer.config.n_units, layer.bias.device)
        # AuxK's loss is a ratio of sums over the batch, which parts of it cannot know.
        self._micro = MicroBatches(name, recipe.micro_tokens, not recipe.auxk_coefficient)

    def step(
        self,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        context: AbstractContextManager[object],
    ) -> None:
        """One optimizer step on a batch of activations; nothing here waits for the device.

        When memory runs out the batch is computed in halves, quarters, …, whose gradients add up to
        the same step.

        Args:
            x: what the layer is fed, (tokens, d_in).
            y: what it should give, (tokens, d_out).
            context: autocast, or nothing; it is entered once.
        """
        self.layer.train()
        k = None
        if isinstance(self.layer, SparseLayer) and self.layer.config.random_k:
            k = self.layer.training_k(self._k_draws)
        with context:
            self._micro.run(len(x), lambda parts: self._gradients(x, y, k, parts))
        self._optimizer.update(self.lr * self.schedule.factor(self.steps))
        self.steps += 1
        self.tokens += len(x)

    def _gradients(self, x: Tensor, y: Tensor, k: int | None, parts: list[slice]) -> None:
        """Gradients of a batch's loss, a part of it at a time, and what there is to count."""
        self._optimizer.zero_grad(set_to_none=True)
        errors: list[tuple[Tensor, Tensor]] = []
        seen: list[Codes | None] = []
        known = y.square().sum(-1) > 0 if len(parts) > 1 else None
        for part in parts:
            # The losses are means over tokens with y ≠ 0; a part counts with its share of them.
            share = 1.0 if known is None else known[part].sum() / known.sum().clamp(min=1)
            of_tokens = (part.stop - part.start) / len(x)
            codes, prediction = self._predict(x[part], k)
            target = y[part]
            prediction = prediction.float()
            fit = self._loss(prediction, target)
            rest = self._penalties(codes, x[part], target - prediction.detach(), of_tokens)
            loss = fit * share + rest
            with torch.autocast(x.device.type, enabled=False):
                loss.backward()
            nmse = fit if self._loss is normalized_mse else normalized_mse(prediction, target)
            errors.append((loss.detach(), nmse.detach() * share))
            seen.append(codes)
        self._count(errors, seen, len(x))

    def _predict(self, x: Tensor, k: int | None) -> tuple[Codes | None, Tensor]:
        if not isinstance(self.layer, SparseLayer):
            return None, self.layer(x)
        codes = self.layer.encode(x, k)
        return codes, self.layer.decode(codes, x)

    def _penalties(
        self, codes: Codes | None, x: Tensor, residual: Tensor, share: float
    ) -> Tensor | float:
        if codes is None or not isinstance(self.layer, SparseLayer):
            return 0.0
        total: Tensor | float = 0.0
        if self.layer.config.sparsity == "l1":
            total = self.recipe.l1_coefficient * codes.values.sum(-1).mean() * share
        if self.recipe.auxk_coefficient:
            dead = self._counters.silent_tokens >= self.recipe.dead_after_tokens
            auxiliary = dead_units_loss(self.layer, x, residual, dead, self.recipe.auxk_units)
            total = total + self.recipe.auxk_coefficient * auxiliary
        return total

    @torch.no_grad()
    def _count(
        self, errors: list[tuple[Tensor, Tensor]], seen: list[Codes | None], tokens: int
    ) -> None:
        """Only once a whole batch has gone through: a failed attempt leaves no trace."""
        for loss, nmse in errors:
            self._counters.add_errors(loss, nmse)
        hits = None
        for codes in seen:
            if codes is not None:
                hits = torch.zeros_like(self._counters.silent_tokens) if hits is None else hits
                self._counters.add_codes(codes, hits, tokens)
        self._counters.end_step(hits, tokens)

    def take_window(self) -> Window:
        """Means since the last call; the one place that waits for the device."""
        loss, nmse, l0 = self._counters.take()
        dead = self._counters.silent_fraction(min(self.recipe.dead_after_tokens, self.tokens))
        self.diverged = self.diverged or not math.isfinite(nmse + loss)
        self.nmse_history.append(nmse)
        return Window(loss, nmse, l0 if dead is not None else None, dead, self._optimizer.lr)
