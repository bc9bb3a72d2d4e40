"""Spoil ten thousand files and see that none does harm: `python -m tests.fuzz.run`."""

import argparse
import faulthandler
import json
import logging
import os
import random
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.fuzz.campaign import Tally, chosen, counts, shares, table, total, tried
from tests.fuzz.targets import every_target


def main() -> int:
    """Run the campaign; 1 where anything failed."""
    arguments = _arguments()
    faulthandler.register(signal.SIGUSR1)
    target_file = None if arguments.json is None else arguments.json.absolute()
    logging.disable(logging.WARNING)  # thousands of damaged lines are named
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory(prefix="mxd-fuzz-") as name:
        root = Path(name)
        (root / "outside.bin").write_bytes(b"{}")
        os.chdir(root)
        targets = every_target(root / "good", root / "ran")
        tallies: dict[str, Tally] = {}
        owed = 0  # of targets that have too few
        for number, (target, count) in enumerate(shares(targets, arguments.mutations)):
            if arguments.only is not None and arguments.only not in target.name:
                continue
            work = root / f"work-{number}"
            work.mkdir()
            dice = random.Random(f"{arguments.seed} {target.name}")
            mutations = chosen(target, count + owed, dice)
            owed += count - len(mutations)
            tallies[target.name] = tried(target, mutations, work)
            print(table(tallies).splitlines()[-2], flush=True)  # noqa: T201
    print(table(tallies))  # noqa: T201
    failures = [{"target": name, **one} for name, of in tallies.items() for one in of.failures]
    for one in failures[:20]:
        print(json.dumps(one, indent=1))  # noqa: T201
    if target_file is not None:
        target_file.write_text(json.dumps(_document(tallies, arguments), indent=2) + "\n")
    return 1 if failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--only", help="targets whose name contains this")
    parser.add_argument(
        "--json", type=lambda name: Path(name).absolute(), help="file for the counts"
    )
    return parser.parse_args()


def _document(tallies: dict[str, Tally], arguments: argparse.Namespace) -> dict[str, Any]:
    command = f"python -m tests.fuzz.run --mutations {arguments.mutations} --seed {arguments.seed}"
    targets = {
        name: {**counts(one), "peak_mebibytes": one.peak >> 20, "failures": one.failures}
        for name, one in tallies.items()
    }
    whole = counts(total(tallies.values()))
    return {"kind": "fuzz", "command": command, "all": whole, "targets": targets}


if __name__ == "__main__":
    sys.exit(main())
