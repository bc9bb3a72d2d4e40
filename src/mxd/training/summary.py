"""The training summary that goes into a layer's folder."""

from typing import Any, NamedTuple

from mxd.training.recipe import Recipe
from mxd.training.student import Student


class TextRead(NamedTuple):
    """How much of the text a run has read, all of its processes together."""

    epoch: int
    """The epoch that the furthest is in, from 1."""
    fingerprint: str
    """Fingerprint of all token ids."""


def summarise(student: Student, recipe: Recipe, read: TextRead) -> dict[str, Any]:
    """The training summary of a layer's config.json."""
    history = student.nmse_history
    tenth = max(1, len(history) // 10)
    last = sum(history[-tenth:]) / tenth if history else None
    before = sum(history[-2 * tenth : -tenth]) / tenth if len(history) >= 2 * tenth else None
    return {
        "recipe": recipe.name,
        "text": recipe.text.source,
        "tokens": student.tokens,
        "steps": student.steps,
        "epochs": read.epoch,
        "loss": recipe.optimizer.loss,
        "lr": student.lr,
        "precision": recipe.precision,
        "start": student.start,
        "variant": student.variant,
        "diverged": student.diverged,
        "nmse_last_tenth": None if student.diverged else last,
        "nmse_tenth_before": None if student.diverged else before,
        "still_falling": None if last is None or before is None else last < 0.98 * before,
        "data_fingerprint": read.fingerprint,
    }
