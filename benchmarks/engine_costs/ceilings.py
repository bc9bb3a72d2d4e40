"""What this machine can do at most: matrix products, memory, random rows, selection."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from engine_costs.floors import Ceilings
from engine_costs.timing import Timing, interleaved

TOKENS, WIDTH, K = 4096, 768, 32
MATMULS = {"encoder": (TOKENS, WIDTH, 3072), "gate_chunk": (TOKENS, WIDTH, 2048)}
"""Products (m, k, n) that matter at GPT-2's shape: the encoder, and a chunk of the gate."""


def measure_ceilings(*, rounds: int = 7, scale: int = 1, bf16: bool = True) -> dict[str, object]:
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


def as_ceilings(found: dict[str, object], name: str) -> Ceilings:
    """The best rate of each kind."""
    gflops, moved = found["gflops"], found["gigabytes_per_second"]
    flops: dict[str, float] = {}
    for key, rate in gflops.items():
        precision = key.rsplit("_", 1)[1]
        flops[precision] = max(flops.get(precision, 0.0), rate * 1e9)
    return Ceilings(
        name,
        "measured",
        flops,
        max(moved[key] for key in ("copy", "read", "triad")) * 1e9,
        moved["table_rows"] * 1e9,
        moved["batch_rows"] * 1e9,
        found["gigavalues_compared_per_second"] * 1e9,
    )


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
