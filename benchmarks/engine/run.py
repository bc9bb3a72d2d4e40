"""Time one training step of mxd, of the obvious implementation and of its peers, side by side.

    python -m benchmarks.engine.run [--quick] [--only steps|grid] [--contenders mxd,obvious]

Every contender is a process of its own, in an environment of its own; within a shape they take
turns, so that whatever else the machine does meets all of them. All of it takes some 20 minutes on
two quiet cores, a grid of 4 widths by 3 K included. `make bench-peers` installs the
peers. The result is written after every shape; Ctrl-C keeps what was measured.
"""

import argparse
import datetime as dt
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine.cells import TITLES, Cell, plan
from benchmarks.engine.contenders import Contender, ContenderError
from benchmarks.engine.measure import free_bytes, measure
from benchmarks.engine.result import (
    RESULTS,
    cells_to_keep,
    machine_tag,
    start,
    this_machine,
    write,
)
from benchmarks.engine.screen import show


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the flags, measure, write the result, print a table."""
    flags = _flags(arguments)
    found = this_machine(flags.device)
    quick = "quick-" if flags.quick else ""
    path = flags.out or RESULTS / f"engine-{quick}{machine_tag(found)}.json"
    cells = plan(
        parts=(flags.only,) if flags.only else ("steps", "grid"),
        contenders=tuple(flags.contenders),
        quick=flags.quick,
        bf16_native=bool(found["bf16_native"]),
        all_bf16=flags.bf16,
        device=flags.device,
    )
    if flags.only_n:
        cells = [cell for cell in cells if cell.case.n == flags.only_n]
    if flags.only_k:
        cells = [cell for cell in cells if cell.case.k == flags.only_k]
    command = ["python", "-m", "benchmarks.engine.run", *(arguments or sys.argv[1:])]
    document = start(found, command, all_bf16=flags.bf16)
    if flags.keep:
        document["cells"] = cells_to_keep(path, [cell.shape() for cell in cells])
    workers = {name: Contender(name, tuned=not flags.as_installed) for name in flags.contenders}
    document["memory_settings"] = "each library's own" if flags.as_installed else "mxd's for all"
    code = 0
    try:
        document["versions"] = _versions(workers)
        _measure_all(cells, workers, document, path, flags.budget_minutes * 60)
    except KeyboardInterrupt:
        code = 130
        print(f"stopped; what was measured is in {path}", flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    show(document)
    print(f"written to {path}")
    return code


def _flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to try it out (seconds)")
    parser.add_argument("--only", choices=("steps", "grid"), help="measure one part alone")
    parser.add_argument(
        "--contenders", type=_names, default=list(TITLES), help=f"of {','.join(TITLES)}"
    )
    parser.add_argument("--bf16", action="store_true", help="bf16 everywhere, emulated or not")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--budget-minutes", type=float, default=25, help="adds no repeats beyond three after this"
    )
    parser.add_argument("--keep", action="store_true", help="keep an earlier result's other cells")
    parser.add_argument("--only-n", type=int, help="measure this width alone")
    parser.add_argument("--only-k", type=int, help="measure this K alone")
    parser.add_argument(
        "--as-installed",
        action="store_true",
        help="give nobody mxd's memory settings; mxd sets its own",
    )
    parser.add_argument("--out", type=Path, help="JSON file (default: named after the machine)")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(TITLES))
    if unknown:
        raise argparse.ArgumentTypeError(f"got {', '.join(unknown)}, expected {', '.join(TITLES)}")
    return [name for name in TITLES if name in names]


def _versions(workers: dict[str, Contender]) -> dict[str, Any]:
    """What each contender runs on, or why it cannot run."""
    found: dict[str, Any] = {}
    for name, worker in workers.items():
        found[name] = _described(worker)
        if "error" in found[name]:
            print(f"{name}: {found[name]['error']}", flush=True)
    return found


def _described(worker: Contender) -> dict[str, Any]:
    try:
        return worker.describe()
    except ContenderError as error:
        return {"error": str(error)}


def _measure_all(
    cells: Sequence[Cell],
    workers: dict[str, Contender],
    document: dict[str, Any],
    path: Path,
    budget: float,
) -> None:
    """Cell after cell; each may spend the part of the budget that its operations are of all."""
    started = time.monotonic()
    whole = sum(cell.flops * cell.rounds for cell in cells)
    planned = 0.0
    for number, cell in enumerate(cells, start=1):
        planned += cell.flops * cell.rounds
        until = started + budget * planned / whole
        print(f"{number}/{len(cells)} {cell.title}", flush=True)
        results = measure(
            cell,
            workers,
            memory=free_bytes(),
            more=lambda until=until: time.monotonic() < until,  # type: ignore[misc]
            say=lambda text: print(f"    {text}", flush=True),
        )
        date = dt.date.today().isoformat()
        document["cells"].append(cell.shape() | {"date": date, "results": results})
        write(path, document)


if __name__ == "__main__":
    sys.exit(main())
