"""The training loop, and all that must be kept for it to go on as if nothing had happened."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mxd.data import ActivationBatch, ActivationStream
from mxd.training.checkpoints import Part, random_state, restore_random_state
from mxd.training.geometry import GeometryTracker
from mxd.training.metrics_log import MetricsLog
from mxd.training.precision import autocast
from mxd.training.progress import OnProgress, Reporter
from mxd.training.recipe import Recipe
from mxd.training.saver import Saver
from mxd.training.stopwatch import Stopwatch
from mxd.training.student import Student

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """Who takes part in a training."""

    recipe: Recipe
    """What is trained, and how."""
    stream: ActivationStream
    """Where activations come from."""
    students: list[Student]
    """What is trained on them."""
    clock: Stopwatch
    """Where the time goes."""


class Loop:
    """Batch after batch to every student, with reports and checkpoints now and then.

    Args:
        workers: who takes part.
        log: where metrics go.
        on_progress: told after each report.
    """

    def __init__(self, workers: Workers, log: MetricsLog, on_progress: OnProgress | None) -> None:
        recipe, students = workers.recipe, workers.students
        batch_tokens = recipe.optimizer.batch_tokens
        self.total = -(-recipe.tokens // batch_tokens) * batch_tokens
        self._workers, self._log = workers, log
        self._tracker = GeometryTracker(students, recipe.track_experts, self.total // batch_tokens)
        self._report = Reporter(
            students, log, self._tracker, workers.clock, self.total, on_progress
        )
        self.step = self.tokens = 0

    def run(self, saver: Saver) -> None:
        """Train to the end of the budget or of the text.

        Raises:
            Interrupted: a signal asked to stop; the run is saved.
        """
        recipe, clock = self._workers.recipe, self._workers.clock
        batches = iter(self._workers.stream)
        while True:
            with clock.harvesting():
                batch = next(batches, None)
            if batch is None:
                break
            self.step, self.tokens = self.step + 1, batch.tokens
            with clock.stepping():
                self._step(batch)
            if self.step % recipe.log_every == 0 or self.tokens >= self.total:
                self._report(self.step, self.tokens)
            saver.after(self)
            if all(student.diverged for student in self._workers.students):
                logger.warning("all students have diverged: the run ends at step %d", self.step)
                break
        if self.step > self._report.step:  # the text ended before the budget
            self._report(self.step, self.tokens, last=True)
        logger.info("trained %d students for %d steps", len(self._workers.students), self.step)

    def _step(self, batch: ActivationBatch) -> None:
        recipe = self._workers.recipe
        device = torch.device(recipe.device)
        # In the buffer's type to the device, which need not be waited for, and wider only there.
        placed = {
            name: (x.to(device, non_blocking=True).float(), y.to(device, non_blocking=True).float())
            for name, (x, y) in batch.sites.items()
        }
        for student in self._workers.students:
            if student.diverged:
                continue
            x, y = placed[student.site]
            fed = y if student.layer.reads == "output" else x
            student.step(fed, y, autocast(recipe.precision, device))

    def state(self) -> Part:
        """All that a checkpoint holds; the tensors are those in use."""
        files: dict[str, dict[str, Tensor]] = {}
        students = []
        for number, student in enumerate(self._workers.students):
            file = f"student-{number}.safetensors"
            plain, files[file] = student.state()
            entry = {"site": student.site, "name": student.name, "file": file, "state": plain}
            students.append(entry)
        stream, files["stream-0.safetensors"] = self._workers.stream.state()
        content = {
            "tokens": self.tokens,
            "progress": self._report.state(),
            "metrics_bytes": self._log.size,
            "random": random_state(),
            "students": students,
            "streams": [{"file": "stream-0.safetensors", "state": stream}],
        }
        return Part(content, files)

    def load_state(
        self, content: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Go on from a state of a run with the same students.

        Args:
            content: what a checkpoint.json holds.
            files: tensors by the name of their file.

        Raises:
            ValueError, KeyError, TypeError, RuntimeError: it does not fit.
        """
        saved = {(entry["site"], entry["name"]): entry for entry in content["students"]}
        for student in self._workers.students:
            entry = saved[student.site, student.name]
            student.load_state(entry["state"], files[entry["file"]])
        (stream,) = content["streams"]
        self._workers.stream.load_state(stream["state"], files[stream["file"]])
        self._report.load_state(content["progress"])
        self._log.rewind(content["metrics_bytes"], content["step"])
        restore_random_state(content["random"])
        self.step, self.tokens = content["step"], content["tokens"]
