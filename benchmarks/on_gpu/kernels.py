"""The device's ceilings, and each kernel's time against them."""

from collections.abc import Callable
from typing import Any

import torch
from engine_costs.shapes import Shape
from torch.nn import functional as F

from mxd.kernels import triton as triton_kernels
from on_gpu.data import Data, contenders, float32_products, make
from on_gpu.timing import Timing, interleaved

Work = Callable[[], object]
CALLS = 3
"""Calls of a kernel for one reading."""
PRODUCTS = {
    "float32": (torch.float32, "highest"),
    "tf32": (torch.float32, "high"),
    "bf16": (torch.bfloat16, "highest"),
}


def measure_ceilings(device: torch.device, size: int, rounds: int) -> dict[str, Any]:
    """FLOP/s of a square product by precision, and bytes a second of a copy (read and written)."""
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    flops = {}
    for name, (dtype, precision) in PRODUCTS.items():
        with float32_products(precision):
            a, b = left.to(dtype), right.to(dtype)
            out = torch.empty_like(a)
            time = interleaved({name: _product(a, b, out)}, rounds, device)[name]
        flops[name] = 2 * size**3 / time["median"]
    source = torch.randn(8 * size * size, device=device)
    target = torch.empty_like(source)
    time = interleaved({"copy": lambda: target.copy_(source)}, rounds, device)["copy"]
    moved = 2 * source.numel() * source.element_size()
    return {"size": size, "flops": flops, "bytes_per_second": moved / time["median"]}


def _product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> Work:
    return lambda: torch.mm(a, b, out=out)


def measure_kernels(
    shape: Shape, device: torch.device, rounds: int, ceilings: dict[str, Any]
) -> list[dict[str, Any]]:
    """One entry for each kernel, contender and dtype: seconds, counts, share of the roofline."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        data = make(shape, device, dtype)
        label = str(dtype).removeprefix("torch.")
        for kernel, works in _sums(data, shape, device).items():
            times = interleaved(works, rounds, device, calls=CALLS)
            counts = _sum_counts(kernel, shape, data.x.element_size())
            found += _entries(kernel, label, times, counts, ceilings)
    data = make(shape, device)
    pre = data.x @ data.gate.T
    counts = {"bytes": pre.numel() * 4.0, "flops": 0.0}
    works = {"torch": lambda: pre.topk(shape.k)}
    if "triton" in contenders(device):
        works["triton"] = lambda: triton_kernels.top_k_rows(pre, shape.k)
    times = interleaved(works, rounds, device, calls=CALLS)
    found += _entries("top_k_rows", "float32", times, counts, ceilings)
    del pre
    return found + _gate_forward(data, shape, device, rounds, ceilings)


def _sums(data: Data, shape: Shape, device: torch.device) -> dict[str, dict[str, Work]]:
    works: dict[str, dict[str, Work]] = {}
    for name, m in contenders(device).items():
        calls: dict[str, Work] = {
            "weighted_rows": lambda m=m: m.weighted_rows(data.values, data.indices, data.table),
            "row_products": lambda m=m: m.row_products(data.gradient, data.indices, data.table),
            "scatter_rows": lambda m=m: m.scatter_rows(
                data.values, data.indices, data.gradient, shape.units
            ),
        }
        for kernel, call in calls.items():
            works.setdefault(kernel, {})[name] = call
    return works


def _sum_counts(kernel: str, shape: Shape, element: int) -> dict[str, float]:
    """Least bytes through memory, each thing once; `gathered` is what passes the caches."""
    tokens, k, d, n = shape.tokens, shape.k, shape.d_out, shape.units
    codes = tokens * k * (8.0 + element)
    rows, table = tokens * d * element, min(tokens * k, n) * d * element
    least = {
        "weighted_rows": codes + table + rows,
        "row_products": codes + table + rows,
        "scatter_rows": codes + rows + n * d * 4.0,
    }
    flops = 2.0 * tokens * k * d
    return {"bytes": least[kernel], "flops": flops, "gathered": tokens * k * d * float(element)}


def _gate_forward(
    data: Data, shape: Shape, device: torch.device, rounds: int, ceilings: dict[str, Any]
) -> list[dict[str, Any]]:
    """linear + bias + ReLU + top-k, in the precisions of the matrix product."""
    flops = 2.0 * shape.tokens * shape.units * shape.d_in
    counts = {"bytes": 4.0 * (data.gate.numel() + data.x.numel()), "flops": flops}
    found = []
    for label, (dtype, precision) in PRODUCTS.items():
        x, weight, bias = data.x.to(dtype), data.gate.to(dtype), data.bias.to(dtype)
        works: dict[str, Work] = {
            "torch": lambda x=x, w=weight, b=bias: F.linear(x, w, b).relu().topk(shape.k)
        }
        if "triton" in contenders(device):
            narrow = dtype if dtype != torch.float32 else None
            works["triton"] = lambda narrow=narrow: triton_kernels.select(
                data.x, data.gate, data.bias, shape.k, candidates_dtype=narrow
            )
        with float32_products(precision):
            times = interleaved(works, rounds, device, calls=CALLS)
        found += _entries("select", label, times, counts, ceilings)
    for entry in found:
        if entry["contender"] == "triton":
            entry["recall"] = _recall(data, shape, entry["dtype"])
    return found


def _recall(data: Data, shape: Shape, label: str) -> float:
    """Share of the units that a float64 product would choose which are chosen, over 256 tokens."""
    dtype, precision = PRODUCTS[label]
    narrow = dtype if dtype != torch.float32 else None
    x = data.x[:256]
    with float32_products(precision):
        chosen = triton_kernels.select(x, data.gate, data.bias, shape.k, candidates_dtype=narrow)[1]
    true = (x.double() @ data.gate.double().T + data.bias.double()).topk(shape.k).indices
    return float((chosen[:, :, None] == true[:, None, :]).any(1).double().mean())


def _entries(
    kernel: str,
    dtype: str,
    times: dict[str, Timing],
    counts: dict[str, float],
    ceilings: dict[str, Any],
) -> list[dict[str, Any]]:
    rate = ceilings["flops"]["bf16" if dtype == "bfloat16" else dtype]
    floor = max(counts["bytes"] / ceilings["bytes_per_second"], counts["flops"] / rate)
    return [
        {
            "kernel": kernel,
            "dtype": dtype,
            "contender": name,
            "seconds": time,
            **counts,
            "floor_seconds": floor,
            "share_of_roofline": floor / time["median"],
        }
        for name, time in times.items()
    ]
