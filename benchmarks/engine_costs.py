"""What the engine's parts cost, what they would cost at least, and the distance.

    python benchmarks/engine_costs.py                  # all, a quarter of an hour or more
    python benchmarks/engine_costs.py --only steps     # one part; the others stay as they were
    python benchmarks/engine_costs.py --quick          # tiny sizes, to see that it runs

Writes `benchmarks/results/engine-costs-<tag>.json` and the tables of docs/performance.md between
its markers `costs:begin` and `costs:end`.
"""

import argparse
import datetime as dt
import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import transformers
from compare import machine
from engine_costs.accuracy import measure_accuracy
from engine_costs.inference import measure_inference
from engine_costs.memory import UNITS, draw, measure_memory
from engine_costs.page import write_page
from engine_costs.parts import measure_step
from engine_costs.shapes import ARCHITECTURES, gpt2_shape, small_shape

from mxd import __version__
from mxd.planning import (
    H100,
    H200,
    Ceilings,
    as_ceilings,
    floors_by_group,
    measure_ceilings,
    step_parts,
)
from mxd.training.precision import bf16_is_native

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("ceilings", "steps", "inference", "accuracy", "memory")
ELEMENT = {"float32": 4, "bf16": 2}


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts asked for, merge them into the tag's file, write the page."""
    flags = parse(arguments)
    path = flags.out / f"engine-costs-{flags.tag}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": {}}
    found |= {"what": __doc__.splitlines()[0], "machine": machine()}
    flags.out.mkdir(parents=True, exist_ok=True)
    for name in [] if flags.page_only else flags.only or PARTS:
        print(f"== {name}", flush=True)
        result = measures(flags, found["parts"])[name]()
        if name == "memory":
            draw(result, flags.images / "memory-against-n.png")
        found["parts"][name] = {**origin(flags), "result": result}
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if flags.page is not None:
        write_page(found, flags.page)
        print(f"wrote {path} and {flags.page}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Flags; `--quick` turns the page off, as its numbers mean nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; leaves the page alone")
    parser.add_argument("--page-only", action="store_true", help="write the page from the JSON")
    parser.add_argument("--tag", help="name of the result (default: processor and threads)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repeats")
    parser.add_argument("--bf16", action="store_true", help="bf16 steps without native bf16 too")
    parser.add_argument("--accuracy-tokens", type=float, default=50_000)
    parser.add_argument("--accuracy-bf16-tokens", type=float, default=5_120)
    parser.add_argument("--memory-units", type=_units, default=UNITS)
    parser.add_argument(
        "--memory-architectures", type=lambda s: tuple(s.split(",")), default=("mxd", "transcoder")
    )
    parser.add_argument("--accuracy-held-out-tokens", type=float, default=15_000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    flags = parser.parse_args(arguments)
    words = str(machine()["processor"]).lower().replace("(", " ").replace(")", " ").split()
    flags.tag = flags.tag or f"{'-'.join(words[:3])}-{torch.get_num_threads()}t"
    if flags.quick:
        flags.tag, flags.page, flags.rounds = f"{flags.tag}-quick", None, 1
        flags.images = flags.out
    if flags.page is not None and not flags.page.is_file():
        parser.error(f"got --page {flags.page}, expected a page with the markers of this command")
    return flags


def origin(flags: argparse.Namespace) -> dict[str, object]:
    """When, with what and how a part was measured."""
    return {
        "date": dt.date.today().isoformat(),
        "quick": flags.quick,
        "threads": torch.get_num_threads(),
        "versions": {
            "mxd": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def measures(
    flags: argparse.Namespace, earlier: dict[str, dict[str, object]]
) -> dict[str, Callable[[], object]]:
    """How each part is measured."""
    quick, rounds = flags.quick, flags.rounds
    ceilings = partial(measure_ceilings, rounds=2 * rounds, scale=32 if quick else 1)

    def here() -> Ceilings:
        known = earlier.get("ceilings")
        return as_ceilings(known["result"] if known else ceilings(), flags.tag)

    return {
        "ceilings": ceilings,
        "steps": lambda: steps(here(), quick=quick, rounds=rounds, bf16=flags.bf16),
        "inference": lambda: measure_inference(
            new_tokens=2 if quick else 16,
            rounds=min(3, rounds),
            small=quick,
            bandwidth=here().bandwidth,
        ),
        "accuracy": lambda: accuracy(flags),
        "memory": lambda: (
            measure_memory(units=(512,), tokens=128, width=64, architectures=("mxd",))
            if quick
            else measure_memory(units=flags.memory_units, architectures=flags.memory_architectures)
        ),
    }


def _units(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def accuracy(flags: argparse.Namespace) -> dict[str, object]:
    """The comparison with the plain kernels; with native bf16 it is one, without it two."""
    if flags.quick:
        return measure_accuracy(0, 2048, seeds=(42,), expansion=6.0, evaluation_tokens=2048)
    tokens, bf16_tokens = int(flags.accuracy_tokens), int(flags.accuracy_bf16_tokens)
    held_out = int(flags.accuracy_held_out_tokens)
    if bf16_is_native(torch.device("cpu")):
        return measure_accuracy(0, tokens, evaluation_tokens=held_out)
    return measure_accuracy(tokens, bf16_tokens, evaluation_tokens=held_out)


def steps(here: Ceilings, *, quick: bool, rounds: int, bf16: bool) -> dict[str, object]:
    """Floors and measured times of a training step, by architecture and precision."""
    measured = ["float32"]
    if bf16 or bf16_is_native(torch.device("cpu")):
        measured.append("bf16")
    found: dict[str, object] = {}
    for architecture in ARCHITECTURES:
        shape = small_shape(architecture) if quick else gpt2_shape(architecture)
        entry: dict[str, object] = {"shape": vars(shape), "precisions": {}, "elsewhere": {}}
        entry["counted"] = [asdict(part) for part in step_parts(architecture, shape)]
        for precision in measured:
            print(f"{architecture}, {precision}", flush=True)
            parts = step_parts(architecture, shape, ELEMENT[precision])
            seconds = measure_step(architecture, shape, precision=precision, rounds=rounds)
            floors = with_sum(floors_by_group(parts, here, precision))
            entry["precisions"][precision] = {
                "floor_seconds": floors,
                "seconds": seconds,
                "measured_over_floor": {
                    name: times["median"] / floors[name] for name, times in seconds.items()
                },
            }
        for device in (H200, H100):
            entry["elsewhere"][device.name] = {
                precision: with_sum(
                    floors_by_group(
                        step_parts(architecture, shape, ELEMENT.get(precision, 4)),
                        device,
                        precision,
                    )
                )
                for precision in device.flops
            }
        found[architecture] = entry
    return found


def with_sum(floors: dict[str, float]) -> dict[str, float]:
    """Floors of the parts, and of the `step`, which is their sum."""
    return {**floors, "step": sum(floors.values())}


if __name__ == "__main__":
    main()
