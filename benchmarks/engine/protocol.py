"""What every worker shares: the case, its data, and a protocol of JSON lines on stdin and stdout.

Only torch and the standard library are imported here, because workers run in environments of
their own. One request a line, one answer a line; what goes wrong is answered as `{"error": …}`.

    {"describe": true}       -> {"versions": {…}, "threads": 2}
    {"prepare": {case}}      -> parameters, bytes of parameters, gradients and optimizer state,
                                seconds of the first step (which allocates and is not measured)
    {"step": 3}              -> {"seconds": [of each full step]}
    {"peak": true}           -> {"beyond_bytes": …}: see `peak`
    {"release": true}        -> {}: forget the case
    {"quit": true}           -> {}, and the worker ends
"""

import ctypes
import gc
import importlib.metadata
import json
import math
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one step works on."""

    architecture: str
    """`mxd` or `transcoder`."""
    d_in: int
    """Width of the input."""
    d_out: int
    """Width of the output."""
    d_hidden: int
    """Hidden units of an MxD's dense branch."""
    n: int
    """Units: experts or latents."""
    k: int
    """Units that may be active for a token."""
    tokens: int
    """Tokens in a step."""
    dtype: str = "float32"
    """`float32`, or `bf16` for bf16 products beside float32 master weights."""
    seed: int = 0
    """Seed of data and parameters."""
    device: str = "cpu"
    """`cpu` or `cuda`."""

    def data(self) -> tuple[Tensor, Tensor]:
        """(x, y): x standard normal (tokens, d_in), y a fixed random MLP of it (tokens, d_out)."""
        made = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.tokens, self.d_in, generator=made)
        up = torch.randn(self.d_in, 2 * self.d_in, generator=made) / math.sqrt(self.d_in)
        down = torch.randn(2 * self.d_in, self.d_out, generator=made) / math.sqrt(2 * self.d_in)
        y = torch.relu(x @ up) @ down
        return x.to(self.device), y.to(self.device)

    def autocast(self) -> torch.autocast:
        """bf16 autocast, which does nothing where the case is float32."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bf16")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A layer, ready to be trained."""

    step: Callable[[], object]
    """One full step: forward, backward, optimizer, gradients cleared, projections if any."""
    parameters: Sequence[nn.Parameter]
    """What is trained."""
    state: Callable[[], Iterable[Any]]
    """What the optimizer keeps; everything that is no tensor is passed over."""
    comprises: str
    """What the step is made of, in one sentence."""


def serve(prepare: Callable[[Case], Prepared], packages: Sequence[str]) -> None:
    """Answer requests until `quit` or the end of stdin.

    Args:
        prepare: builds the layer of a case; it is where the library is imported.
        packages: distributions whose versions are told.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not reach the protocol
    worker = Worker(prepare, packages)
    for line in sys.stdin:
        request = json.loads(line)
        channel.write(json.dumps(worker.answer(request)) + "\n")
        channel.flush()
        if "quit" in request:
            return


class Worker:
    """Holds one prepared case at a time."""

    def __init__(self, prepare: Callable[[Case], Prepared], packages: Sequence[str]) -> None:
        self._prepare, self._packages = prepare, packages
        self._case: Case | None = None
        self._prepared: Prepared | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; errors are answers, too."""
        try:
            (name,) = request
            return self._answer(name, request[name])
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            self._prepared = None
            return {"error": f"{type(error).__name__}: {lines[0][:300]}"}

    def _answer(self, name: str, value: Any) -> dict[str, Any]:
        if name == "describe":
            return describe(self._packages)
        if name == "prepare":
            return self._begin(Case(**value))
        if name in ("release", "quit"):
            self._forget()
            give_memory_back()
            return {}
        if self._prepared is None or self._case is None:
            raise ValueError(f"got {name!r} before prepare")
        if name == "step":
            return {"seconds": [seconds(self._prepared, self._case) for _ in range(value)]}
        if name == "peak":
            return peak(self._prepared, self._case)
        raise ValueError(f"got request {name!r}")

    def _forget(self) -> None:
        if self._prepared is not None:
            self._prepared = None
            gc.collect()

    def _begin(self, case: Case) -> dict[str, Any]:
        self._forget()
        prepared, self._case = self._prepare(case), case
        first = seconds(prepared, case)
        self._prepared = prepared
        return {
            "parameters": sum(p.numel() for p in prepared.parameters),
            "parameter_bytes": _bytes(prepared.parameters),
            "gradient_bytes": _bytes(p for p in prepared.parameters if p.requires_grad),
            "optimizer_bytes": _bytes(t for t in prepared.state() if isinstance(t, Tensor)),
            "first_step_seconds": first,
            "comprises": prepared.comprises,
        }


def describe(packages: Sequence[str]) -> dict[str, Any]:
    """Versions and threads of this process."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", *packages)}
    return {
        "versions": versions | {"python": platform.python_version()},
        "threads": torch.get_num_threads(),
    }


def seconds(prepared: Prepared, case: Case) -> float:
    """Seconds of one full step; an accelerator is waited for on both sides."""
    _wait(case)
    started = perf_counter()
    prepared.step()
    _wait(case)
    return perf_counter() - started


def peak(prepared: Prepared, case: Case) -> dict[str, Any]:
    """Memory that one step needs beyond parameters, gradients and optimizer state, in bytes.

    Gradients are dropped first, so that libraries which free them after a step and libraries which
    keep them start alike; what the step peaks at above that, less the bytes of the gradients, is
    the answer. On Linux it is resident memory: VmHWM, set back by writing 5 to
    /proc/self/clear_refs, less VmRSS; elsewhere there is no answer (null).
    """
    for parameter in prepared.parameters:
        parameter.grad = None
    gc.collect()
    gradients = _bytes(p for p in prepared.parameters if p.requires_grad)
    if case.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        prepared.step()
        _wait(case)
        return {"beyond_bytes": torch.cuda.max_memory_allocated() - before - gradients}
    if not Path("/proc/self/clear_refs").exists():
        return {"beyond_bytes": None}
    give_memory_back()  # freed but resident memory would hide what the step takes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    prepared.step()
    return {"beyond_bytes": _status("VmHWM") - before - gradients}


def _wait(case: Case) -> None:
    if case.device == "cuda":
        torch.cuda.synchronize()


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field} in /proc/self/status")


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Everything that an optimizer keeps for its parameters."""
    return [value for state in optimizer.state.values() for value in state.values()]


def give_memory_back() -> None:
    """Return what is freed to the system: another contender may need it."""
    gc.collect()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
