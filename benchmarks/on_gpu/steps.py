"""A training step of one layer: forward, backward, AdamW; fast kernels against the obvious ones."""

import gc
import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from engine_costs.parts import new_student
from engine_costs.shapes import Shape, batch, new_layer

from mxd.kernels import naive
from mxd.training.precision import autocast
from on_gpu.timing import interleaved, peak_bytes

CONTENDERS = {
    "mxd, float32": ("fast", "float32"),
    "mxd, bf16": ("fast", "bf16"),
    "obvious, float32": ("obvious", "float32"),
    "obvious, bf16 autocast": ("obvious", "bf16"),
}


def measure_step(
    architecture: str, shape: Shape, device: torch.device, rounds: int
) -> dict[str, Any]:
    """Seconds of a step, speed-ups over the obvious ones, and memory beyond what is kept.

    The obvious step is the same layer, loss and fused AdamW on `mxd.kernels.naive`.
    """
    gc.collect()  # what the last shape left behind
    x, y = (part.to(device) for part in batch(shape))
    works, memory, parameters = {}, {}, 0
    for name, (kernels, precision) in CONTENDERS.items():
        with device:
            layer = new_layer(architecture, shape)
        parameters = sum(p.numel() * p.element_size() for p in layer.parameters())
        student = new_student(layer, shape)
        works[name] = _Step(student, kernels, precision, x, y)
        works[name]()  # the optimizer's state is made in the first step
        peak = peak_bytes(works[name], device)
        memory[name] = None if peak is None else peak - parameters  # less the gradients
    times = interleaved(works, rounds, device)
    best = times["mxd, bf16"]["median"]
    return {
        "architecture": architecture,
        "shape": vars(shape),
        "seconds": times,
        "tokens_per_second": {name: shape.tokens / t["median"] for name, t in times.items()},
        "speed_up_over_obvious_float32": times["obvious, float32"]["median"] / best,
        "speed_up_over_obvious_autocast": times["obvious, bf16 autocast"]["median"] / best,
        "parameter_bytes": parameters,
        "peak_bytes_beyond_parameters_gradients_and_state": memory,
    }


class _Step:
    def __init__(self, student: Any, kernels: str, precision: str, x: Any, y: Any) -> None:
        self.student, self.kernels, self.precision = student, kernels, precision
        self.x, self.y = x, y

    def __call__(self) -> None:
        swap: AbstractContextManager[object] = nullcontext()
        if self.kernels == "obvious":
            swap = obvious_kernels()
        with swap:
            self.student.step(self.x, self.y, autocast(self.precision, self.x.device))


@contextmanager
def obvious_kernels() -> Iterator[None]:
    """Layers compute with `mxd.kernels.naive`, N-wide forward and backward."""

    def gate(*inputs: Any, skip: int = 0, check: bool = True) -> Any:  # noqa: ARG001 - as called
        return naive.gate(*inputs, skip=skip)

    swaps = {
        "mxd.layers._parts": {"gate": gate},
        "mxd.layers.base": {"combine": naive.combine},
    }
    with ExitStack() as stack:
        for module, functions in swaps.items():
            stack.enter_context(patch.multiple(importlib.import_module(module), **functions))
        yield
