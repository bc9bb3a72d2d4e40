"""The other end of a worker's pipe: start it, ask it, and say what became of it."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from benchmarks.engine.protocol import Case

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".bench-envs"
"""Where `make bench-peers` puts the peers."""
MEMORY = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
}
"""Huge pages, and freed memory that stays: what mxd asks for by itself when it is imported and in
`fit`. Everybody gets it, since it helps everybody; peers' own users would have to set it."""
OWN = ("mxd", "obvious")
"""Contenders that run in this environment."""


class ContenderError(Exception):
    """A worker answered with an error, or ended."""


def python_of(name: str) -> Path:
    """The Python that a contender runs under.

    Raises:
        ContenderError: its environment is missing; with the last line of its installation's log.
    """
    if name in OWN:
        return Path(sys.executable)
    place = ENVIRONMENTS / name
    if (place / ".installed").exists():
        return place / "bin" / "python"
    log = place.with_suffix(".log")
    lines = log.read_text(encoding="utf-8").strip().splitlines() if log.exists() else []
    raise ContenderError(f"not installed: {lines[-1] if lines else 'run make bench-peers'}")


class Contender:
    """A worker process, started at the first request and again after it died.

    Args:
        name: whose.
        tuned: whether it gets the settings of `MEMORY`.
    """

    def __init__(self, name: str, *, tuned: bool = True) -> None:
        self.name = name
        self._environment = os.environ | (MEMORY if tuned else {})
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self) -> dict[str, Any]:
        """Versions and threads."""
        return self._ask("describe", True)

    def prepare(self, case: Case) -> dict[str, Any]:
        """Build the layer and take one step that is not measured."""
        return self._ask("prepare", asdict(case))

    def step(self, repeats: int) -> list[float]:
        """Seconds of steps."""
        seconds: list[float] = self._ask("step", repeats)["seconds"]
        return seconds

    def peak(self) -> int | None:
        """Bytes beyond parameters, gradients and optimizer state; None where it cannot be told."""
        beyond: int | None = self._ask("peak", True)["beyond_bytes"]
        return beyond

    def release(self) -> None:
        """Let the case go, and its memory."""
        self._ask("release", True)

    def close(self) -> None:
        """End the worker, which the end of its input tells it to do."""
        process, log = self._process, self._log
        self._process = self._log = None
        if process is not None:
            with suppress(subprocess.TimeoutExpired, BrokenPipeError):
                process.communicate(timeout=5)
            process.kill()
            process.communicate()
        if log is not None:
            log.close()

    def _ask(self, request: str, value: object) -> dict[str, Any]:
        process = self._started()
        if process.stdin is None or process.stdout is None:
            raise AssertionError("a worker without pipes")
        try:
            process.stdin.write(json.dumps({request: value}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ContenderError(self._epitaph(process))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            python = python_of(self.name)
            self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
            self._process = subprocess.Popen(
                [str(python), "-m", f"benchmarks.engine.worker_{self.name}"],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C ends the measurement, not the worker's sentence
                text=True,
                encoding="utf-8",
            )
        return self._process

    def _epitaph(self, process: subprocess.Popen[str]) -> str:
        """Why a worker ended: its exit code, and the last line that it wrote."""
        code = process.wait()
        lines: list[str] = []
        if self._log is not None:
            self._log.seek(0)
            lines = self._log.read().strip().splitlines()
        self.close()
        killed = " (killed: out of memory?)" if code == -9 else ""
        return f"the worker ended with {code}{killed}: {(lines or ['it wrote nothing'])[-1][:300]}"
