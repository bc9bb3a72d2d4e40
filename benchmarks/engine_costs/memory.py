"""Peak memory of a training step against N, each in a process of its own (Linux)."""

import json
import subprocess
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from engine_costs.shapes import Shape
from mxd.planning import parameters
from mxd.planning.work import WEIGHT

UNITS = (4_096, 16_384, 65_536, 262_144)
SHARE = 0.6
"""Share of the available memory that a step may need."""
N_WIDE = 7
"""N-wide float32 tensors that live at once in a plain step, with a margin."""
COLOURS = {"mxd": "#0072b2", "plain": "#d55e00"}
MARKERS = {"mxd": "o", "transcoder": "s"}


def measure_memory(
    *,
    units: tuple[int, ...] = UNITS,
    tokens: int = 4096,
    width: int = 768,
    architectures: tuple[str, ...] = ("mxd", "transcoder"),
) -> list[dict[str, object]]:
    """One entry for each implementation, architecture and N; `skipped` says why one is missing."""
    found = []
    for architecture in architectures:
        for implementation in ("mxd", "plain"):
            for n in units:
                shape = Shape(width, width, 4 * width, n, 32, tokens)
                entry = {"implementation": implementation, "architecture": architecture, "units": n}
                entry |= {"tokens": tokens, **_measure(implementation, architecture, shape)}
                print(json.dumps(entry), flush=True)
                found.append(entry)
    return found


def _measure(implementation: str, architecture: str, shape: Shape) -> dict[str, object]:
    needed = bytes_needed(implementation, architecture, shape)
    available = available_bytes()
    if needed > SHARE * available:
        gigabytes = f"{needed / 1e9:.0f} GB of {available / 1e9:.0f} GB available"
        return {"skipped": f"needs about {gigabytes}"}
    script = Path(__file__).with_name("memory_step.py")
    job = json.dumps([implementation, architecture, vars(shape)])
    done = subprocess.run(
        [sys.executable, str(script), job], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return {"skipped": f"exit code {done.returncode}: {lines[-1]}"}
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def bytes_needed(implementation: str, architecture: str, shape: Shape) -> int:
    """An upper estimate of a step's memory: weights, gradients, moments, temporaries."""
    held = 4 * WEIGHT * parameters(architecture, shape)
    wide = N_WIDE * WEIGHT * shape.tokens * shape.units if implementation == "plain" else 0
    return held + wide + (1 << 30)


def available_bytes() -> int:
    """Memory that the system can give, in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("MemAvailable")]
    return int(line.split()[1]) * 1024


def draw(entries: list[dict[str, object]], path: Path) -> None:
    """Peak beyond parameters, gradients and optimizer state against N, both on log scales."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    ticks: set[int] = set()
    for architecture, marker in MARKERS.items():
        for implementation, colour in COLOURS.items():
            points = _points(entries, implementation, architecture)
            if points:
                xs, ys = zip(*points, strict=True)
                ticks.update(xs)
                name = f"{'MxD' if architecture == 'mxd' else architecture}, "
                name += "mxd" if implementation == "mxd" else "plain"
                axes.plot(xs, ys, color=colour, marker=marker, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sorted(ticks), [f"{n:,}" for n in sorted(ticks)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set(xlabel="units N", ylabel="peak of a step beyond weights,\ngradients, moments (MB)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _points(
    entries: list[dict[str, object]], implementation: str, architecture: str
) -> list[tuple[int, float]]:
    return [
        (entry["units"], max(entry["beyond_bytes"], 1e5) / 1e6)
        for entry in entries
        if (entry["implementation"], entry["architecture"]) == (implementation, architecture)
        and "beyond_bytes" in entry
    ]
