"""One process that measures the peak memory of a step: `memory_step.py '[impl, arch, {shape}]'`.

The peak is the kernel's high-water mark of resident memory, reset before the step; what was
resident before (weights and optimizer moments) and the gradients' own bytes are taken off.
"""

import ctypes
import json
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine_costs.parts import new_student
from engine_costs.plain import plain_kernels
from engine_costs.shapes import Shape, batch, new_layer

WARM_UP = 2


def main() -> None:
    """Read the job, measure, print one line of JSON."""
    implementation, architecture, fields = json.loads(sys.argv[1])
    shape = Shape(**fields)
    layer = new_layer(architecture, shape)
    student = new_student(layer, shape)
    x, y = batch(shape)
    with plain_kernels() if implementation == "plain" else nullcontext():
        for _ in range(WARM_UP):
            student.step(x, y, nullcontext())
        layer.zero_grad(set_to_none=True)
        give_back_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = status("VmRSS")
        student.step(x, y, nullcontext())
        peak = status("VmHWM")
    gradients = sum(p.numel() * p.element_size() for p in layer.parameters())
    result = {
        "peak_bytes": peak,
        "resident_before_bytes": before,
        "gradient_bytes": gradients,
        "beyond_bytes": peak - before - gradients,
    }
    print(json.dumps(result))


def give_back_freed_memory() -> None:
    """Return what malloc keeps of freed memory, which would hide a part of the step's own."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
