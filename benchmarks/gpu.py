"""What a GPU makes of it: kernels, training steps, a whole training, generation, in one command.

    PYTHONPATH=src python benchmarks/gpu.py         # under ten minutes on one H100 or H200
    python benchmarks/gpu.py --device cpu --quick   # tiny sizes, to see that it runs

Needs what mxd imports (PyTorch with CUDA and Triton, transformers, scikit-learn and so on; mxd
itself need not be installed), and neither network nor data: weights, tokens and activations are
random. First every kernel is compared with float64 on the device itself; where one is wrong nothing
is timed. Then, by CUDA events, after a warm-up, contenders in turn, as medians: the device's
ceilings; each kernel against them and against PyTorch's operators; a step of one layer against the
obvious implementation; tokens a second of a whole training; seconds a position of `generate`.
Writes gpu.json (after each part, so that an interruption keeps the earlier ones) to --out, or to
$OUT where that is set, and prints tables.

Not yet run on a GPU: there are no numbers, and block sizes are chosen by reasoning.
"""

import argparse
import datetime as dt
import gc
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers
from engine_costs.shapes import Shape, gpt2_shape
from on_gpu.checks import check_all
from on_gpu.kernels import measure_ceilings, measure_kernels
from on_gpu.steps import measure_step
from on_gpu.tables import show
from on_gpu.whole import measure_generation, measure_training

from mxd.kernels import triton as triton_kernels

PARTS = ("checks", "ceilings", "kernels", "steps", "training", "generation")
LLAMA = {
    "mxd": Shape(3072, 3072, 8192, 86_015, 32, 4096),
    "transcoder": Shape(3072, 3072, 8192, 98_304, 32, 4096),
}
TINY = {"mxd": Shape(32, 32, 128, 256, 4, 64), "transcoder": Shape(32, 32, 128, 300, 4, 64)}


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts asked for and write them down."""
    flags = parse(arguments)
    device = torch.device(flags.device)
    flags.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "what": __doc__.splitlines()[0],
        "date": dt.date.today().isoformat(),
        "device": name_of(device),
        "quick": flags.quick,
        "versions": versions(),
        "parts": {},
        "seconds": {},
    }
    for name in PARTS:
        if flags.only and name not in {"checks", "ceilings", *flags.only}:
            continue
        started = perf_counter()
        print(f"== {name}", flush=True)
        found["parts"][name] = measures(flags, device, found["parts"])[name]()
        found["seconds"][name] = perf_counter() - started
        show(name, found["parts"][name])
        text = json.dumps(found, indent=2) + "\n"
        (flags.out / "gpu.json").write_text(text, encoding="utf-8")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(f"wrote {flags.out / 'gpu.json'}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", "benchmarks/results"))
    )
    flags = parser.parse_args(arguments)
    if not flags.quick and not flags.device.startswith("cuda"):
        parser.error(f"got device {flags.device}, expected a GPU; --quick runs anywhere")
    return flags


def measures(
    flags: argparse.Namespace, device: torch.device, parts: dict[str, Any]
) -> dict[str, Callable[[], Any]]:
    """Each part with the sizes that the flags ask for."""
    shapes = {"tiny": TINY}
    if not flags.quick:
        gpt2 = {name: gpt2_shape(name) for name in ("mxd", "transcoder")}
        shapes = {"gpt2-124m": gpt2, "llama-3.2-3b": LLAMA}
    first = next(iter(shapes.values()))
    small = Shape(**{**vars(first["mxd"]), "tokens": 64 if flags.quick else 512})
    rounds = 2 if flags.quick else 20
    steps, new_tokens = (3, 3) if flags.quick else (200, 64)
    return {
        "checks": lambda: check_all(small, device),
        "ceilings": lambda: measure_ceilings(device, 64 if flags.quick else 8192, rounds),
        "kernels": lambda: {
            name: measure_kernels(shape["mxd"], device, rounds, parts["ceilings"])
            for name, shape in shapes.items()
        },
        "steps": lambda: {
            name: [measure_step(a, shape[a], device, max(2, rounds // 2)) for a in shape]
            for name, shape in shapes.items()
        },
        "training": lambda: [
            entry
            for a in (["mxd"] if flags.quick else first)
            for entry in measure_training(a, first[a], device, steps=steps, small=flags.quick)
        ],
        "generation": lambda: measure_generation(
            {a: Shape(**{**vars(shape), "tokens": 1}) for a, shape in first.items()},
            device,
            new_tokens=new_tokens,
            rounds=max(2, rounds // 4),
            small=flags.quick,
        ),
    }


def name_of(device: torch.device) -> str:
    """What the numbers were measured on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()


def versions() -> dict[str, str | None]:
    """Of what matters here."""
    triton = None
    if triton_kernels.available():
        from importlib.metadata import version

        triton = version("triton")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton,
        "transformers": transformers.__version__,
    }


if __name__ == "__main__":
    main()
