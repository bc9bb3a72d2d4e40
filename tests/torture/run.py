"""Torture a training and say what it took: `python -m tests.torture.run --kills 50`."""

import argparse
import datetime as dt
import json
import platform
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from tests.torture.commands import fit_command, prepare
from tests.torture.harness import torture


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Parse the flags, torture, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=2, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        command = fit_command(folder, steps=flags.steps, every=flags.every)
        toll = torture(command, folder, kills=flags.kills, seed=flags.seed, say=say)
    found = {
        "what": "one process, killed with SIGKILL and resumed by the same command",
        "date": dt.date.today().isoformat(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "kills": toll.kills,
        "during_writes": toll.during_writes,
        "before_the_first_checkpoint": toll.before_first,
        "resumptions": len(toll.resumed_from),
        "steps_resumed_from": len(Counter(toll.resumed_from)),
        "runs_compared": toll.finished,
        "students_each": 6,
        "runs_with_other_bytes": 0,  # one would have ended this with an error
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
