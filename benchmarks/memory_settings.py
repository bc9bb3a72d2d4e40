"""What huge pages and kept memory are worth: a training step with them and without.

    python benchmarks/memory_settings.py --out benchmarks/results

The settings are read once in a process, so each reading is a process; readings alternate. glibc's
variables here do what `mxd.fit` does by itself.
"""

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from compare import machine

from mxd.layers import MxD, MxDConfig
from mxd.training import OptimizerRecipe, Schedule, Student

TOKENS, ROUNDS = 4096, 2
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
SETTINGS = {
    "neither": {"THP_MEM_ALLOC_ENABLE": "0"},
    "huge pages": {"THP_MEM_ALLOC_ENABLE": "1"},
    "huge pages, kept memory": {"THP_MEM_ALLOC_ENABLE": "1"} | KEPT,
}


def main() -> None:
    """Parse the flags, measure in turn, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        print(json.dumps(measure()))
        return
    readings: dict[str, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
    for _ in range(ROUNDS):
        for setting, found in readings.items():
            found.append(in_a_process(setting))
    result = {
        "what": __doc__.splitlines()[0],
        "date": dt.date.today().isoformat(),
        "machine": machine(),
        "versions": {"torch": torch.__version__},
        "shape": "an MxD of GPT-2's shape (N = 21,490, K = 32), 4,096 tokens a step, float32",
        "seconds": {
            setting: {what: median(one[what] for one in found) for what in found[0]}
            for setting, found in readings.items()
        },
        "readings": readings,
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2) + "\n"
    (flags.out / "memory-settings.json").write_text(text, encoding="utf-8")
    print(json.dumps(result["seconds"], indent=2))


def in_a_process(setting: str) -> dict[str, float]:
    """One reading under a setting."""
    found = subprocess.run(
        [sys.executable, __file__, "--one"],
        env=os.environ | SETTINGS[setting],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    seconds: dict[str, float] = json.loads(found.stdout)
    return seconds


def measure() -> dict[str, float]:
    """Medians of a step, of a ReLU and of zeros."""
    torch.manual_seed(0)
    config = MxDConfig(
        d_in=768, d_out=768, d_hidden=3072, n_experts=21490, k=32, activation="gelu", glu=False
    )
    recipe = OptimizerRecipe()
    student = Student(
        "mxd", "site", MxD(config), lr=1e-4, seed=0, recipe=recipe, schedule=Schedule.of(recipe, 1)
    )
    x, y = torch.randn(2, TOKENS, 768)
    wide = torch.randn(TOKENS, 3072)
    work = {
        "step": lambda: student.step(x, y, nullcontext()),
        "relu of 4096 x 3072": lambda: torch.relu(wide),
        "zeros of 21490 x 768": lambda: torch.zeros(21490, 768),
    }
    found = {}
    for name, call in work.items():
        times = []
        for _ in range(6):
            started = perf_counter()
            call()
            times.append(perf_counter() - started)
        found[name] = median(times[1:])
    return found


if __name__ == "__main__":
    main()
