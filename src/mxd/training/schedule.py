"""The learning rate's course: linear warm-up, constant, and an optional linear decay."""

from dataclasses import dataclass

from mxd.training.recipe import OptimizerRecipe


@dataclass(frozen=True)
class Schedule:
    """What the learning rate is multiplied with at each step."""

    steps: int
    """All steps of the run."""
    warmup: int
    """Steps of linear warm-up."""
    decay: int
    """Steps, at the end, of linear decay towards zero."""

    @classmethod
    def of(cls, recipe: OptimizerRecipe, tokens: int) -> "Schedule":
        """The schedule of a recipe for a token budget."""
        steps = max(1, -(-tokens // recipe.batch_tokens))
        warmup = min(recipe.warmup_steps, round(recipe.warmup_share * steps))
        return cls(steps, warmup, round(recipe.decay_share * steps))

    def factor(self, step: int) -> float:
        """Factor at a step, counted from 0; in (0, 1]."""
        rising = (step + 1) / (self.warmup + 1) if step < self.warmup else 1.0
        falling = (self.steps - step) / (self.decay + 1) if self.decay else 1.0
        return max(min(rising, falling, 1.0), 1.0 / (self.steps + 1))
