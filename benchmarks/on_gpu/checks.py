"""Every kernel against float64 on this very device, before anything is timed."""

from collections.abc import Callable
from typing import Any

import torch
from engine_costs.parts import new_student
from engine_costs.shapes import Shape, batch, new_layer
from torch import Tensor

from mxd.kernels import combine, gate, naive
from mxd.kernels import triton as triton_kernels
from mxd.training.precision import autocast
from on_gpu.data import Data, contenders, make

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
"""‖got − oracle‖ / ‖oracle‖; float32 arithmetic stays far below, tf32 would not."""


def check_all(shape: Shape, device: torch.device) -> list[dict[str, Any]]:
    """One entry for each kernel and dtype.

    Raises:
        SystemExit: one of them is wrong.
    """
    found: list[dict[str, Any]] = []
    for dtype in (torch.float32, torch.bfloat16):
        data = make(shape, device, dtype)
        found += _sums(data, shape, device, str(dtype).removeprefix("torch."))
    data = make(shape, device)
    found += _selection(data, shape, device)
    found += _layers(data, shape)
    found += _waits(shape, device)
    wrong = [entry for entry in found if not entry["error"] <= entry["tolerance"]]
    if wrong:
        raise SystemExit("wrong results, nothing was timed: " + repr(wrong))
    return found


def _entry(what: str, error: float, tolerance: float) -> dict[str, Any]:
    return {"what": what, "error": error, "tolerance": tolerance}


def relative_error(got: Tensor, oracle: Tensor) -> float:
    """‖got − oracle‖ / ‖oracle‖ in float64."""
    return float((got.double() - oracle).norm() / oracle.norm())


def _sums(data: Data, shape: Shape, device: torch.device, dtype: str) -> list[dict[str, Any]]:
    values, table = data.values.double(), data.table.double()
    gradient, rows = data.gradient.double(), data.x.double()
    dense = naive.densify(values, data.indices, shape.units)
    oracles = {
        "weighted_rows": dense @ table,
        "row_products": (gradient @ table.T).gather(1, data.indices),
        "scatter_rows": dense.T @ rows,
    }
    del dense
    found = []
    for name, module in contenders(device).items():
        calls: dict[str, Callable[[], Tensor]] = {
            "weighted_rows": lambda m=module: m.weighted_rows(
                data.values, data.indices, data.table
            ),
            "row_products": lambda m=module: m.row_products(
                data.gradient, data.indices, data.table
            ),
            "scatter_rows": lambda m=module: m.scatter_rows(
                data.values, data.indices, data.x, shape.units
            ),
        }
        for kernel, call in calls.items():
            got = call()
            error = relative_error(got, oracles[kernel])
            found.append(_entry(f"{name} {kernel} {dtype}", error, TOLERANCE[dtype]))
            if name == "triton":
                same = float(not torch.equal(got, call()))
                found.append(_entry(f"{name} {kernel} {dtype}, bits that vary", same, 0.0))
    return found


def _selection(data: Data, shape: Shape, device: torch.device) -> list[dict[str, Any]]:
    if "triton" not in contenders(device):
        return []
    exact = data.x.double() @ data.gate.double().T + data.bias.double()
    best = exact.topk(shape.k).values
    pre = data.x @ data.gate.T
    top = triton_kernels.top_k_rows(pre, shape.k)
    found = [
        _entry("top_k_rows", relative_error(top[0], pre.double().topk(shape.k).values), 0.0),
        _entry("top_k_rows, indices", relative_error(pre.gather(1, top[1]), top[0].double()), 0.0),
    ]
    for narrow in (None, torch.bfloat16):
        values, indices = triton_kernels.select(
            data.x, data.gate, data.bias, shape.k, candidates_dtype=narrow
        )
        found.append(
            _entry(f"select {narrow}", relative_error(values, exact.gather(1, indices)), 1e-5)
        )
        # Not all of the best k must be found in bf16: `recall` in the results says how many are.
        tolerance = 1e-5 if narrow is None else 1e-3
        found.append(_entry(f"select {narrow}, best", relative_error(values, best), tolerance))
    return found


def _layers(data: Data, shape: Shape) -> list[dict[str, Any]]:
    """The library's own doors, forward and every gradient, through whatever they dispatch to."""

    def of(functions: Any, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
        leaves = [
            t.detach().to(dtype).requires_grad_()
            for t in (data.x, data.gate, data.bias, data.table)
        ]
        values, indices = functions[0](*leaves[:3], shape.k)
        output = functions[1](values, indices, leaves[3])
        gradients = torch.autograd.grad((output * data.gradient.to(dtype)).sum(), leaves)
        return [output.detach(), *gradients], indices

    names = ("output", "x", "gate", "gate bias", "table")
    got, chosen = of((gate, combine), torch.float32)

    def same_units(x: Tensor, weight: Tensor, bias: Tensor, _: int) -> tuple[Tensor, Tensor]:
        """The oracle's gate may choose another of two units that are as good as equal."""
        return torch.relu(x @ weight.T + bias).gather(1, chosen), chosen

    oracles, _ = of((same_units, naive.combine), torch.float64)
    return [
        _entry(f"gate and combine, {name}", relative_error(mine, oracle), 1e-4)
        for name, mine, oracle in zip(names, got, oracles, strict=True)
    ]


def _waits(shape: Shape, device: torch.device) -> list[dict[str, Any]]:
    """Whether a training step ever waits for the device: CUDA raises an error where one would."""
    if device.type != "cuda":
        return []
    x, y = (part.to(device) for part in batch(shape))
    found = []
    for architecture in ("mxd", "transcoder"):
        with device:
            student = new_student(new_layer(architecture, shape), shape)
        student.step(x, y, autocast("bf16", device))  # kernels are compiled in the first step
        torch.cuda.set_sync_debug_mode("error")
        try:
            student.step(x, y, autocast("bf16", device))
            waited = 0.0
        except RuntimeError:
            waited = 1.0
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found.append(_entry(f"{architecture} step, waits for the device", waited, 0.0))
    return found
