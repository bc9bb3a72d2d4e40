"""One layer being trained: its optimizer, its loss, its counters."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mxd._plain_state import flag, number, whole
from mxd.layers import Codes, Layer, SparseLayer
from mxd.training.companions import ALONE, Companions
from mxd.training.counters import Counters
from mxd.training.dead_units import dead_units_loss
from mxd.training.guard import Guard
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


class _Found(NamedTuple):
    """What a step's passes leave to be counted."""

    loss: Tensor
    nmse: Tensor
    codes: Codes | None


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
        companions: Companions = ALONE,
    ) -> None:
        self.companions = companions
        """The processes that train this student too."""
        self.variant, self.start = variant, start
        self.name, self.site, self.layer, self.seed = name, site, layer, seed
        self.recipe, self.schedule, self.lr = recipe, schedule, lr
        self.steps = self.tokens = 0
        self.nmse_history: list[float] = []
        self.diverged = False
        """Whether a step was not finite, as far as the host knows; no later one is made."""
        self.bad_step: int | None = None
        """The number of that step, from 1; the weights are those before it."""
        self._loss = loss_function(recipe.loss)
        self._k_draws = torch.Generator().manual_seed(seed)
        self._optimizer = LayerAdamW(layer, recipe, lr, companions)
        units = len(layer.unit_rows) if isinstance(layer, SparseLayer) else 0
        self._counters = Counters(units, layer.bias.device)
        self._guard = Guard(layer.bias.device)
        # AuxK's loss is a ratio of sums over the batch, which parts of it cannot know.
        may_split = companions.may_split and not recipe.auxk_coefficient
        self._micro = MicroBatches(name, recipe.micro_tokens, may_split)

    def step(
        self,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        context: AbstractContextManager[object],
    ) -> None:
        """One optimizer step on a batch of activations.

        Nothing here waits for the device, but for the number of active units under `l1` and of dead
        ones under AuxK. When memory runs out, the dense part is computed in halves, quarters, …,
        whose gradients add up to the same step.

        Args:
            x: what the layer is fed, (tokens, d_in).
            y: what it should give, (tokens, d_out).
            context: autocast, or nothing; it is entered once.
        """
        self.layer.train()
        k = None
        if isinstance(self.layer, SparseLayer) and self.layer.config.random_k:
            k = self.layer.training_k(self._k_draws)
        self.companions.begin(y)
        tokens = self.companions.tokens(len(x))
        with context:
            found = self._passed(x, y, k)
        self.companions.sum_gradients(self.layer)
        loss = self._counters.add(*found, tokens, self.companions)
        del found  # what is not needed for the optimizer's step takes no memory during it
        lr = self.lr * self.schedule.factor(self.steps)
        self._optimizer.update(lr, loss, self._guard, self.steps + 1)
        self.steps += 1
        self.tokens += tokens

    def _passed(self, x: Tensor, y: Tensor, k: int | None) -> _Found:
        """Gradients of this process's part of a batch."""
        if not len(x):  # the text here has ended, and that of other processes has not
            self._auxiliary(x, y)
            return _Found(y.new_zeros(()), y.new_zeros(()), None)
        rows = len(y[self.companions.own])
        return self._micro.run(rows, lambda parts: self._gradients(x, y, k, parts))

    def _gradients(self, x: Tensor, y: Tensor, k: int | None, parts: list[slice]) -> _Found:
        """Gradients of a batch's loss, a part of it at a time, and what there is to count."""
        self._optimizer.zero_grad(set_to_none=True)
        codes = combined = None
        if isinstance(self.layer, SparseLayer):
            # What is sparse is never split: its memory is O(tokens · (k + d)), while the gradient
            # of each part would be as wide as N.
            codes = self.companions.encode(self.layer, x, k)
            combined = self.companions.combined(self.layer, codes)
        batch, x, y = x, x[self.companions.own], y[self.companions.own]
        if len(parts) <= 1:
            prediction = self._dense(combined, x).float()
            fit = self._loss(prediction, y)
            loss = self.companions.part_of(fit)
            loss = loss + self._sparsity(codes) + self._auxiliary(batch, y - prediction.detach())
            self._backward(loss)
            nmse = fit if self._loss is normalized_mse else normalized_mse(prediction, y)
            nmse = self.companions.part_of(nmse)
        else:
            loss, nmse, combined_grad = self._in_parts(combined, x, y, parts)
            rest = self._sparsity(codes)
            if combined is not None and combined_grad is not None:
                self._backward((combined * combined_grad).sum() + rest)
            loss = loss + rest
        return _Found(loss.detach(), nmse.detach(), codes)

    def _in_parts(
        self, combined: Tensor | None, x: Tensor, y: Tensor, parts: list[slice]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Loss, NMSE, and the loss's gradient for `combined`, with a part of z at a time."""
        leaf = None if combined is None else combined.detach().requires_grad_()
        known = y.square().sum(-1) > 0
        total, nmse = y.new_zeros(()), y.new_zeros(())
        for part in parts:
            prediction = self._dense(None if leaf is None else leaf[part], x[part]).float()
            # The losses are means over tokens with y ≠ 0; a part counts with its share of them.
            share = known[part].sum() / known.sum().clamp(min=1)
            loss = self.companions.part_of(self._loss(prediction, y[part]) * share)
            self._backward(loss)
            total += loss.detach()
            nmse += self.companions.part_of(normalized_mse(prediction.detach(), y[part]) * share)
        return total, nmse, None if leaf is None else leaf.grad

    def _dense(self, combined: Tensor | None, x: Tensor) -> Tensor:
        if combined is None or not isinstance(self.layer, SparseLayer):
            prediction: Tensor = self.layer(x)
            return prediction
        return self.layer.finish(combined, x)

    def _sparsity(self, codes: Codes | None) -> Tensor | float:
        """The penalty on active units under `l1`."""
        if codes is None or not isinstance(self.layer, SparseLayer):
            return 0.0
        if self.layer.config.sparsity != "l1":
            return 0.0
        return self.recipe.l1_coefficient * self.companions.mean_sum(codes.values)

    def _auxiliary(self, batch: Tensor, residual: Tensor) -> Tensor | float:
        """AuxK's part of the loss; the processes of a student exchange sums for it."""
        if not self.recipe.auxk_coefficient or not isinstance(self.layer, SparseLayer):
            return 0.0
        dead = self._counters.silent_tokens >= self.recipe.dead_after_tokens
        units = self.recipe.auxk_units
        loss = dead_units_loss(self.layer, batch, residual, dead, units, self.companions)
        return self.recipe.auxk_coefficient * loss

    @staticmethod
    def _backward(loss: Tensor) -> None:
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What it takes to go on with the very next step: plain data, and its own tensors."""
        plain = {
            "steps": self.steps,
            "tokens": self.tokens,
            "diverged": self.diverged,
            "halved_tokens": self._micro.halved,
            "lr": self._optimizer.lr,
        }
        tensors = {
            "layer": self.layer.state_dict(),
            "optimizer": self._optimizer.moments(self.layer),
            "counters": self._counters.state(),
            "guard": self._guard.state(),
            "random": {"k": self._k_draws.get_state()},
            # It grows with the run, and would outgrow what JSON is read with.
            "history": {"nmse": torch.tensor(self.nmse_history, dtype=torch.float64)},
        }
        return plain, {
            f"{part}.{name}": value.detach()
            for part, named in tensors.items()
            for name, value in named.items()
        }

    def load_state(self, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from the state of a student of the same name."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }

        self.layer.load_state_dict(part("layer."))
        self._optimizer.load_moments(self.layer, part("optimizer."))
        self._optimizer.lr = number(plain, "lr")
        self._counters.load_state(part("counters."))
        self._guard.load_state(part("guard."))
        self._k_draws.set_state(tensors["random.k"])
        self.steps, self.tokens = whole(plain, "steps"), whole(plain, "tokens")
        self.diverged = flag(plain, "diverged")
        if plain["halved_tokens"] is not None:
            self._micro.halve_to(whole(plain, "halved_tokens", least=1))
        self.bad_step = self._guard.first_bad()
        self.nmse_history = _history(tensors["history.nmse"])

    def take_window(self) -> Window:
        """Means since the last call; the one place that waits for the device."""
        loss, nmse, l0 = self._counters.take()
        silent = min(self.recipe.dead_after_tokens, self.tokens)
        dead = self._counters.silent_fraction(silent, self.companions)
        self.bad_step = self._guard.first_bad()
        self.diverged = self.diverged or self.bad_step is not None
        self.nmse_history.append(nmse)
        return Window(loss, nmse, l0 if dead is not None else None, dead, self._optimizer.lr)


def _history(saved: Tensor) -> list[float]:
    if saved.dtype != torch.float64 or saved.ndim != 1:
        raise ValueError(f"got a history of {saved.ndim} dimensions and {saved.dtype}")
    history: list[float] = saved.tolist()
    return history
