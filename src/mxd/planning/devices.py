"""What layers can be trained on: memory, ceilings and wires of a kind of device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mxd._json_files import read_json_object
from mxd.errors import UserError
from mxd.planning.work import Ceilings

ASSUMED_DISTANCE = 2.0
"""How many times longer than their floors steps are taken to be on a device that was not measured.
An assumption: a step of the library takes 1.3 to 1.5 times its floor on the CPU of
docs/performance.md, and nothing was measured on a GPU."""
_MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True)
class Device:
    """A kind of device, alone and among its like."""

    kind: str
    """Short name: `cpu`, `h100`, ..."""
    ceilings: Ceilings | None
    """What it can do; None where nobody has measured it."""
    memory_bytes: int | None
    """Its memory; None where it is not known."""
    distance: float
    """How many times its floor a step takes; measured, or assumed."""
    distance_source: str
    """`measured`, `assumed` or `given`."""
    link: float | None = None
    """Bytes a second to another device of the same node, in one direction; None for no such."""
    network: float | None = None
    """Bytes a second and device to other nodes, in one direction."""
    host_link: float | None = None
    """Bytes a second between the device's and the host's memory, in one direction."""
    host_memory_bytes: int | None = None
    """Memory of a node's host, which all its processes share; None where it is not known."""

    @property
    def is_cpu(self) -> bool:
        """Whether it is the host itself."""
        return self.kind == "cpu"

    @property
    def measured(self) -> bool:
        """Whether its ceilings were measured."""
        return self.ceilings is not None and self.ceilings.source == "measured"


def data_sheet(
    name: str, bandwidth: float, *, float32: float, tf32: float, bf16: float
) -> Ceilings:
    """Ceilings of a GPU from NVIDIA's data sheet (SXM, dense): nothing of it is measured here.

    The sheets print TF32 and bf16 with sparsity, twice these. They have no rate for random rows;
    memory's is taken, although part of the rows come from L2.
    """
    flops = {"float32": float32, "tf32": tf32, "bf16": bf16}
    source = "data sheet (dense, SXM)"
    return Ceilings(name, source, flops, bandwidth, bandwidth, bandwidth, float32 / 2)


H200 = data_sheet("NVIDIA H200", 4.8e12, float32=67e12, tf32=494.5e12, bf16=989.5e12)
H100 = data_sheet("NVIDIA H100", 3.35e12, float32=67e12, tf32=494.5e12, bf16=989.5e12)
A100 = data_sheet("NVIDIA A100 80GB", 2.039e12, float32=19.5e12, tf32=156e12, bf16=312e12)


def _gpu(
    kind: str, ceilings: Ceilings, gigabytes: int, nvlink: float, network: float, pcie: float
) -> Device:
    # NVLink and PCIe are printed for both directions together: half of it goes one way.
    return Device(
        kind,
        ceilings,
        gigabytes * 10**9,
        ASSUMED_DISTANCE,
        "assumed",
        nvlink / 2,
        network,
        pcie / 2,
    )


DEVICES = {
    "a100": _gpu("a100", A100, 80, 600e9, 25e9, 64e9),
    "h100": _gpu("h100", H100, 80, 900e9, 50e9, 128e9),
    "h200": _gpu("h200", H200, 141, 900e9, 50e9, 128e9),
}
"""GPUs by name, from NVIDIA's data sheets: memory, NVLink, PCIe; the network is that of a DGX, one
InfiniBand adapter of 200 Gb/s (A100) or 400 Gb/s (H100, H200) for each GPU."""
KINDS = ("cpu", *DEVICES)


def device_of(
    kind: str,
    *,
    memory_bytes: int | None = None,
    host_memory_bytes: int | None = None,
    distance: float | None = None,
    ceilings: Path | None = None,
) -> Device:
    """A kind of device, with what is known better put over its data sheet.

    Args:
        kind: one of `KINDS`.
        memory_bytes: its memory.
        host_memory_bytes: that of a node's host; on a CPU it is the device's where none is given.
        distance: how many times its floor a step takes.
        ceilings: file that `mxd plan --calibrate` (or benchmarks/engine_costs.py) wrote on it.

    Raises:
        UserError: unknown kind, or a file that holds no ceilings.
    """
    if kind not in KINDS:
        raise UserError(f"got device kind {kind!r}, expected one of {', '.join(KINDS)}")
    device = DEVICES.get(kind) or Device("cpu", None, None, 1.0, "assumed")
    if ceilings is not None:
        measured, far = read_ceilings(ceilings)
        source = "assumed" if far is None else "measured"
        device = replace(
            device, ceilings=measured, distance=far or ASSUMED_DISTANCE, distance_source=source
        )
    if memory_bytes is not None:
        device = replace(device, memory_bytes=memory_bytes)
    if device.is_cpu and host_memory_bytes is None:
        host_memory_bytes = memory_bytes
    device = replace(device, host_memory_bytes=host_memory_bytes)
    if distance is not None:
        if not 1 <= distance < 1e6:
            raise UserError(f"got distance {distance}, expected 1 or more times the floor")
        device = replace(device, distance=distance, distance_source="given")
    return device


def read_ceilings(path: Path) -> tuple[Ceilings, float | None]:
    """Measured ceilings, and how many times its floor a step took where that was measured too.

    Raises:
        UserError: there is no such file, or it holds no ceilings.
    """
    document = read_json_object(
        path,
        missing=f"got --ceilings {path}, expected a file that `mxd plan --calibrate` wrote",
        remedy="measure the machine again with --calibrate",
        most_bytes=_MAX_JSON_BYTES,
    )
    parts = document.get("parts")
    try:
        if isinstance(parts, dict):  # benchmarks/engine_costs.py
            machine = (
                f"{document['machine']['processor']}, {document['machine']['threads']} threads"
            )
            return as_ceilings(parts["ceilings"]["result"], machine), _distance(parts.get("steps"))
        return as_ceilings(document["ceilings"], str(document["machine"])), _positive(
            document["step_over_floor"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} holds no ceilings ({error!r}), expected a file that `mxd plan --calibrate` "
            "wrote; measure again"
        ) from None


def _distance(steps: Any) -> float | None:
    """The median over architectures of a float32 step's time over its floor."""
    if not isinstance(steps, dict):
        return None
    found = sorted(
        _positive(entry["precisions"]["float32"]["measured_over_floor"]["step"])
        for entry in steps["result"].values()
    )
    return found[len(found) // 2] if found else None


def as_ceilings(found: dict[str, Any], name: str) -> Ceilings:
    """The best rate of each kind, from what `measure_ceilings` gave."""
    gflops, moved = found["gflops"], found["gigabytes_per_second"]
    flops: dict[str, float] = {}
    for key, rate in gflops.items():
        precision = key.rsplit("_", 1)[1]
        flops[precision] = max(flops.get(precision, 0.0), _positive(rate) * 1e9)
    return Ceilings(
        name,
        "measured",
        flops,
        max(_positive(moved[key]) for key in ("copy", "read", "triad")) * 1e9,
        _positive(moved["table_rows"]) * 1e9,
        _positive(moved["batch_rows"]) * 1e9,
        _positive(found["gigavalues_compared_per_second"]) * 1e9,
    )


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e18:
        raise ValueError(f"got {value!r}, expected a positive number")
    return float(value)
