"""The training loop, and all that must be kept for it to go on as if nothing had happened."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mxd._plain_state import whole
from mxd.data import (
    ActivationBatch,
    NoLongerWantedError,
    ShardedStream,
    SiteActivations,
    until,
)
from mxd.training.build import Roster
from mxd.training.checkpoints import Checkpoint, Part, random_state, restore_random_state
from mxd.training.geometry import GeometryTracker
from mxd.training.metrics_log import MetricsLog
from mxd.training.precision import autocast
from mxd.training.progress import OnProgress, Reporter
from mxd.training.recipe import Recipe
from mxd.training.saver import Saver
from mxd.training.stopwatch import Stopwatch
from mxd.training.student_files import load_student, student_state
from mxd.training.team import Team

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """Who takes part in a training."""

    recipe: Recipe
    """What is trained, and how."""
    stream: ShardedStream
    """Where this process's activations come from."""
    roster: Roster
    """What is trained on them, here and elsewhere."""
    widths: dict[str, tuple[int, int]]
    """d_in and d_out of every site."""
    team: Team
    """The processes of the run."""
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
        recipe, roster = workers.recipe, workers.roster
        batch_tokens = recipe.optimizer.batch_tokens
        self.total = -(-recipe.tokens // batch_tokens) * batch_tokens
        self._workers, self._log = workers, log
        self._tracker = GeometryTracker(
            roster.own, recipe.track_experts, self.total // batch_tokens
        )
        self._report = Reporter(
            roster.own, roster.names, workers.team, log, self._tracker, workers.clock,
            self.total, on_progress,
        )  # fmt: skip
        self.step = self.tokens = 0

    def run(self, saver: Saver) -> None:
        """Train to the end of the budget or of the text.

        Raises:
            Interrupted: a signal asked to stop; the run is saved.
        """
        recipe, clock, team = self._workers.recipe, self._workers.clock, self._workers.team
        while self.tokens < self.total:
            if self._report.all_diverged:
                logger.warning("all students have diverged: the run ends at step %d", self.step)
                break
            with clock.harvesting():
                batch = self._next_batch(saver)
            # Nobody leaves alone: whose text has ended goes on with nothing until all have.
            rows = 0 if batch is None else len(batch.token_ids)
            agreed = team.agree(rows, saver.wishes())
            if not agreed.rows:
                break
            with clock.stepping():
                self._step(batch)
            self.step, self.tokens = self.step + 1, self.tokens + agreed.rows
            if self.step % recipe.log_every == 0 or self.tokens >= self.total:
                self._report(self.step, self.tokens)
            saver.after(self, agreed)
        if self.step > self._report.step:  # the text ended before the budget
            self._report(self.step, self.tokens, last=True)
        count = len(self._workers.roster.names)
        logger.info("trained %d students for %d steps", count, self.step)

    def _next_batch(self, saver: Saver) -> ActivationBatch | None:
        """The next batch; where there is none to be had, what was learnt is saved first."""
        try:
            with until(saver.unwanted):
                return self._workers.stream.next_batch()
        except NoLongerWantedError:
            saver.stop(self, saver.asked)
        except Exception:
            saver.rescue(self)
            raise

    def _step(self, batch: ActivationBatch | None) -> None:
        recipe = self._workers.recipe
        device = torch.device(recipe.device)
        sites = self._nothing() if batch is None else batch.sites
        placed = {
            name: (self._placed(x, device), self._placed(y, device))
            for name, (x, y) in sites.items()
        }
        for student in self._workers.roster.own:
            if student.diverged:
                continue
            x, y = placed[student.site]
            fed = y if student.layer.reads == "output" else x
            student.step(fed, y, autocast(recipe.precision, device))

    def _placed(self, own: Tensor, device: torch.device) -> Tensor:
        """Rows on the device, with those of the processes that train on the same."""
        # In the buffer's type to the device, which need not be waited for, and wider only there.
        return self._workers.team.shared(own.to(device, non_blocking=True)).float()

    def _nothing(self) -> SiteActivations:
        dtype = getattr(torch, self._workers.recipe.buffer.dtype)
        return {
            name: (torch.zeros((0, d_in), dtype=dtype), torch.zeros((0, d_out), dtype=dtype))
            for name, (d_in, d_out) in self._workers.widths.items()
        }

    def state(self) -> Part:
        """All that this process has to save; the tensors are those in use."""
        workers = self._workers
        files: dict[str, dict[str, Tensor]] = {}
        content: dict[str, Any] = {"students": [], "streams": []}
        for student in workers.roster.own:
            if student.companions.keeps:
                number = workers.roster.names.index((student.site, student.name))
                content["students"].append(student_state(student, number, files))
        for shard, stream in workers.stream.shards.items():
            file = f"stream-{shard}.safetensors"
            plain, files[file] = stream.state()
            content["streams"].append({"file": file, "shard": shard, "state": plain})
        if workers.team.speaks:
            content |= {
                "tokens": self.tokens,
                "progress": self._report.state(),
                "metrics_bytes": self._log.synced(),
                "random": random_state(),
            }
        return Part(content, files)

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of a run with the same students and text shards.

        Raises:
            ValueError, KeyError, TypeError, RuntimeError: it does not fit.
        """
        content = checkpoint.content
        saved = {(entry["site"], entry["name"]): entry for entry in content["students"]}
        for student in self._workers.roster.own:
            load_student(student, saved[student.site, student.name], checkpoint)
        streams = {entry.get("shard", 0): entry for entry in content["streams"]}
        for shard, stream in self._workers.stream.shards.items():
            entry = streams[shard]
            stream.load_state(entry["state"], checkpoint.tensors(entry["file"]))
        self._report.load_state(content["progress"])
        self._report.all_diverged = all(entry["state"]["diverged"] for entry in saved.values())
        self._log.rewind(whole(content, "metrics_bytes"), whole(content, "step"))
        restore_random_state(content["random"])
        self.step, self.tokens = whole(content, "step"), whole(content, "tokens")
