"""Torture trainings and say what they took: `python -m tests.torture.run --kills 50`."""

import argparse
import datetime as dt
import json
import platform
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tests.torture.commands import fit_command, prepare
from tests.torture.harness import Toll, Way, torture

WEIGHTS = 2e-5
"""Absolute difference that rounding may make: that of the tests of several processes."""
STUDENTS = 6
ALONE = Way()


@dataclass(frozen=True)
class Form:
    """One way of being killed."""

    what: str
    """In words."""
    way: Way = ALONE
    """On how many processes, and who is killed."""
    divided: str | None = None
    """What several processes divide."""
    steps: int = 150
    """Of the run."""
    flags: dict[str, Any] = field(default_factory=dict)
    """Further ones of the command."""


FORMS = {
    "one_process": Form("one process, killed with SIGKILL and resumed by the same command"),
    "two_data_whole": Form(
        "two processes that divide the text, both killed at once", Way((2,)), "data"
    ),
    "two_data_one": Form(
        "two processes that divide the text, one of them killed; the other one ends by itself",
        Way((2,), one_alone=True), "data",
    ),
    "two_experts_whole": Form(
        "two processes that divide the experts, both killed at once", Way((2,)), "experts"
    ),
    "two_experts_one": Form(
        "two processes that divide the experts, one of them killed; the other one ends by itself",
        Way((2,), one_alone=True), "experts",
    ),
    "four_then_two": Form(
        "four processes that divide the text, all killed at once and gone on with as two",
        Way((4, 2), tolerance=WEIGHTS), "data", 40, {"text_shards": 4},
    ),
}  # fmt: skip
"""By the name of its section in the JSON file."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def tortured(form: Form, kills: int, seed: int, every: int) -> dict[str, Any]:
    """The section of one form."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        command = fit_command(
            folder, steps=form.steps, every=every, divided=form.divided, **form.flags
        )
        toll = torture(command, folder, kills=kills, seed=seed, way=form.way, say=say)
    return _section(form, toll)


def _section(form: Form, toll: Toll) -> dict[str, Any]:
    found: dict[str, Any] = {
        "what": form.what,
        "kills": toll.kills,
        "during_writes": toll.during_writes,
        "before_the_first_checkpoint": toll.before_first,
        "resumptions": len(toll.resumed_from),
        "steps_resumed_from": len(Counter(toll.resumed_from)),
        "runs_compared": toll.finished,
        "students_each": STUDENTS,
    }
    if form.way.one_alone:
        found["longest_seconds_until_the_others_ended"] = round(toll.longest_wait, 2)
    if form.way.tolerance is None:
        found["runs_with_other_bytes"] = 0  # one would have ended this with an error
    else:
        found["tolerance_of_weights"] = form.way.tolerance
        found["largest_difference_of_weights"] = toll.difference
    return found


def main() -> None:
    """Parse the flags, torture, write the JSON file after each form."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="of one process")
    parser.add_argument("--kills-of-several", type=int, default=25, help="in each other form")
    parser.add_argument("--every", type=int, default=2, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    found: dict[str, Any] = {
        "date": dt.date.today().isoformat(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    for name in flags.forms:
        form = FORMS[name]
        say(f"{name}: {form.what}")
        kills = flags.kills if form.way.ranks == (1,) else flags.kills_of_several
        found[name] = tortured(form, kills, flags.seed, flags.every)
        say(json.dumps(found[name], indent=2))
        if flags.json:
            flags.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
