"""What this machine can do at most: matrix products, memory, random rows, selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from mxd.layers import build
from mxd.planning.devices import as_ceilings
from mxd.planning.shape import Shape
from mxd.planning.timing import Timing, interleaved
from mxd.planning.work import floor_seconds, step_parts
from mxd.training import OptimizerRecipe, Schedule, Student
from mxd.training.kept_memory import kept_memory
from mxd.training.precision import autocast

TOKENS, WIDTH, K = 4096, 768, 32
MATMULS = {"encoder": (TOKENS, WIDTH, 3072), "gate_chunk": (TOKENS, WIDTH, 2048)}
"""Products (m, k, n) that matter at GPT-2's shape: the encoder, and a chunk of the gate."""


def calibrate(machine: str, *, rounds: int = 5, scale: int = 1) -> dict[str, Any]:
    """Measure this machine's CPU: its ceilings, and how far a step of a layer is from its floor.

    Half a minute on two cores. Measure on a machine that does nothing else.

    Args:
        machine: what to call it.
        rounds: repeats of each piece, interleaved.
        scale: divides every size, for a quick look.

    Returns:
        JSON-ready: `machine`, `ceilings`, `step_over_floor`.
    """
    found = measure_ceilings(rounds=rounds, scale=scale, bf16=False)
    shape = Shape(WIDTH // scale, WIDTH // scale, 3072 // scale, 21_490 // scale, 8, 1024)
    floor = sum(
        floor_seconds(part, as_ceilings(found, machine), "float32")
        for part in step_parts("mxd", shape)
    )
    step = _step_seconds(shape, rounds)
    return {
        "machine": machine,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "ceilings": found,
        "step_over_floor": max(1.0, step["median"] / floor),
        "step": {**vars(shape), "architecture": "mxd", "floor_seconds": floor, "seconds": step},
    }


def _step_seconds(shape: Shape, rounds: int) -> Timing:
    """Seconds of the library's own training step of an MxD."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape.tokens, shape.d_in, generator=generator)
    y = torch.randn(shape.tokens, shape.d_out, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = build(
            "mxd", d_in=shape.d_in, d_out=shape.d_out, d_hidden=shape.hidden, activation="gelu",
            glu=False, k=shape.k, width=shape.units,
        )  # fmt: skip
    recipe = OptimizerRecipe(batch_tokens=shape.tokens)
    schedule = Schedule.of(recipe, 1000 * shape.tokens)
    student = Student("calibration", "site", layer, lr=1e-4, seed=0, recipe=recipe,
                      schedule=schedule)  # fmt: skip
    device = torch.device("cpu")
    with kept_memory():
        work = {"step": lambda: student.step(x, y, autocast("float32", device))}
        return interleaved(work, rounds, warm_up=2)["step"]


def measure_ceilings(*, rounds: int = 7, scale: int = 1, bf16: bool = True) -> dict[str, Any]:
    """Every ceiling, as a rate and as the times behind it.

    Args:
        rounds: repeats of each piece, interleaved.
        scale: divides every size, for a quick look.
        bf16: also bf16 products.

    Returns:
        JSON-ready: `gflops` by product and precision, `gigabytes_per_second` by pattern,
        `gigavalues_compared_per_second`, and `seconds` behind them.
    """
    products = _products(scale, ["float32", "bf16"] if bf16 else ["float32"])
    moves = _moves(scale)
    works = {name: work for name, (work, _) in {**products, **moves}.items()}
    slow = {name: work for name, work in works.items() if name.endswith("bf16")}
    quick = {name: work for name, work in works.items() if name not in slow}
    times = interleaved(quick, rounds)
    times |= interleaved(slow, min(3, rounds)) if slow else {}
    return {
        "gflops": {name: _rate(times[name], amount) for name, (_, amount) in products.items()},
        "gigabytes_per_second": {
            name: _rate(times[name], amount)
            for name, (_, amount) in moves.items()
            if name != "select"
        },
        "gigavalues_compared_per_second": _rate(times["select"], moves["select"][1]),
        "seconds": times,
    }


def _rate(times: Timing, amount: float) -> float:
    return amount / times["lowest"] / 1e9  # a ceiling is the best that was seen


def _products(scale: int, precisions: list[str]) -> dict[str, tuple[Callable[[], object], float]]:
    generator = torch.Generator().manual_seed(0)
    works = {}
    for name, (m, k, n) in MATMULS.items():
        m, k, n = m // scale, k // scale, n // scale
        left = torch.randn(m, k, generator=generator)
        right = torch.randn(n, k, generator=generator)
        for precision in precisions:
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            a, b, out = left.to(dtype), right.to(dtype).T, torch.empty(m, n, dtype=dtype)
            works[f"{name}_{precision}"] = (_product(a, b, out), 2.0 * m * k * n)
    return works


def _product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> Callable[[], object]:
    return lambda: torch.mm(a, b, out=out)


def _moves(scale: int) -> dict[str, tuple[Callable[[], object], float]]:
    """Patterns of memory, each with the bytes (or, for the selection, values) that it moves."""
    size = (1 << 26) // scale  # 256 MiB in float32, more than any cache
    a, b, c = torch.zeros(size), torch.ones(size), torch.ones(size)
    table, codes = _rows(21_490 // scale, scale)
    batch, places = _rows(TOKENS // scale, scale)
    ones = torch.ones(codes.shape)
    read = codes.numel() * WIDTH * 4.0
    tile = torch.randn(256, 1024)  # 1 MiB: stays in cache

    def rows(source: torch.Tensor, indices: torch.Tensor) -> Callable[[], object]:
        return lambda: F.embedding_bag(indices, source, per_sample_weights=ones, mode="sum")

    def select() -> None:
        for _ in range(32):
            tile.amax(-1)

    return {
        "copy": (lambda: a.copy_(b), 8.0 * size),
        "read": (a.sum, 4.0 * size),
        "triad": (lambda: torch.add(b, c, alpha=3.0, out=a), 12.0 * size),
        "table_rows": (rows(table, codes), read),
        "batch_rows": (rows(batch, places), read),
        "select": (select, 32.0 * tile.numel()),
    }


def _rows(length: int, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(length, WIDTH, generator=generator)
    return table, torch.randint(length, (TOKENS // scale, K), generator=generator)
