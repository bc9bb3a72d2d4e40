"""The whole evaluation on three small models: numbers and pictures of docs/results/.

    python benchmarks/study.py --out docs/results

Everything is done by verbs of `mxd` that anyone can run by hand: a sweep, its doctor, probing,
editing, steering, a report. Two chains of them run at a time, each on one core. The commands, their
times and the machine are written beside the results.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study_summary import summarise
from study_texts import write_texts

GRID = ["--arch", "mxd,transcoder,skip_transcoder", "--k", "4,8,16,32,64", "--seed", "42,43,44"]
CONTROLS = ["--controls", "topk_autoencoder,mlp_transcoder,dense_mlp", "--control-k", "16"]
TRAINING = ["--batch-tokens", "512", "--buffer-contexts", "512"]
CHOSEN = [
    "--student",
    ",".join(
        f"{architecture}-k16-*-s42"
        for architecture in ("mxd", "transcoder", "skip_transcoder", "topk_autoencoder")
    ),
]
CODE, PROSE, STORIES = "texts/python.jsonl.gz", "texts/prose.jsonl.gz", "texts/stories.jsonl.gz"


@dataclass(frozen=True)
class Plan:
    """What is done to one model."""

    name: str
    """Its name, and that of its run."""
    model: str
    """What the verbs call it."""
    text: str
    """Text that the layers are trained on."""
    tokens: str
    """Training tokens."""
    elsewhere: tuple[str, ...]
    """Further texts to evaluate on."""
    edited: tuple[tuple[str, str], ...] = ()
    """Pairs of text to unlearn and text to keep."""
    expansion: str = "8"
    """Width of the transcoder in units of d; the paper has 32."""
    extra: tuple[str, ...] = ()
    """Further flags of its sweep."""


def main() -> None:
    """Parse the flags, run the chains, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--work", type=Path, default=Path("study"), help="folder for the runs")
    parser.add_argument("--only", nargs="*", help="names of models; what the others left is kept")
    parser.add_argument("--quick", action="store_true", help="a hundredth of it, to try it out")
    flags = parser.parse_args()
    shared = Path(os.environ.get("MXD_SHARED", "../shared")).resolve()
    if not (shared / "data" / "corpus").is_dir():
        parser.error(f"{shared} has no data/corpus; say with $MXD_SHARED where the data is")
    work = flags.work.resolve()
    plans = [plan for plan in PLANS if plan.name in (flags.only or [one.name for one in PLANS])]
    for plan in plans:
        if (work / "runs" / plan.name).exists():
            parser.error(f"{work}/runs/{plan.name} is there already; move it away to measure anew")
    prepare(shared, work)
    chains = [chain(plan, flags.quick) for plan in plans]
    with ThreadPoolExecutor(max_workers=2) as two_cores:
        done = list(two_cores.map(lambda verbs: run_chain(verbs, work), chains))
    record = remember(work, dict(zip((plan.name for plan in plans), done, strict=True)))
    summarise(
        work, [plan.name for plan in PLANS if plan.name in record["models"]], record, flags.out
    )
    sys.stdout.write(f"{record['core_minutes']} core-minutes; results in {flags.out}\n")


def remember(work: Path, done: dict[str, list[tuple[str, float]]]) -> dict[str, Any]:
    """Write study.json: what was run for each model, and how long each verb took."""
    path = work / "study.json"
    known = json.loads(path.read_text(encoding="utf-8"))["models"] if path.is_file() else {}
    models = known | {
        name: [{"command": line, "seconds": seconds} for line, seconds in part]
        for name, part in done.items()
    }
    seconds = sum(one["seconds"] for part in models.values() for one in part)
    record = {"machine": machine(), "core_minutes": round(seconds / 60), "models": models}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


PLANS = (
    Plan(
        "small-gpt2",
        "small-gpt2",
        "texts/train.jsonl.gz",
        "2.5e5",
        (CODE, PROSE, STORIES),
        ((CODE, PROSE), (PROSE, CODE)),
    ),
    Plan(
        "small-llama",
        "small-llama",
        "texts/train.jsonl.gz",
        "2.5e5",
        (CODE, PROSE, STORIES),
        ((CODE, PROSE), (PROSE, CODE)),
    ),
    Plan(
        "stories260k",
        "models/stories260k",
        STORIES,
        "1.5e5",
        (CODE, PROSE),
        extra=("--ablations", "ablations.yaml"),
    ),
)


def chain(plan: Plan, quick: bool) -> list[list[str]]:
    """The verbs for one model, in their order."""
    run = f"runs/{plan.name}"
    size = {
        "tokens": "6e3" if quick else plan.tokens,
        "evaluation": "2e3" if quick else "1e4",
        "edits": "2e3" if quick else "1e4",
        "texts": "300" if quick else "1000",
        "units": "2" if quick else "50",
    }
    held = ["--tokens", size["evaluation"]]
    sweep = ["sweep", plan.model, "--text", plan.text, "--layers", "3", *GRID, *CONTROLS, *TRAINING]
    sweep += [
        "--expansion",
        plan.expansion,
        "--tokens",
        size["tokens"],
        "--eval-tokens",
        size["evaluation"],
        *plan.extra,
    ]
    elsewhere = [word for text in plan.elsewhere for word in ("--text", text)]
    verbs = [
        [*sweep, "--out", run],
        ["doctor", run],
        ["eval", run, *CHOSEN, *elsewhere, *held],
    ]
    for task in ("ag_news", "code_language", "pos_tags"):
        verbs.append(["probe", run, "--task", f"probes/{task}.jsonl.gz", *CHOSEN])
        verbs[-1] += ["--limit", size["texts"], "--selection", "both"]
    for target, keep in plan.edited:
        verbs.append(["edit", run, "--study", "--target", target, "--keep", keep, *CHOSEN])
        verbs[-1] += ["--tokens", size["edits"], "--random-draws", "1"]
    verbs.append(["steer", run, "--study", size["units"], "--strengths", "4x,16x,100", *CHOSEN])
    verbs.append(["report", run, "--out", f"reports/{plan.name}"])
    return verbs


def prepare(shared: Path, work: Path) -> None:
    """Put the texts, and links to what is read only, into the folder that the verbs run in."""
    write_texts(shared / "data" / "corpus", work / "texts")
    shutil.copy(
        shared / "data" / "stories260k" / "sample_corpus.jsonl.gz", work / "texts/stories.jsonl.gz"
    )
    shutil.copy(Path(__file__).parent / "ablations_small.yaml", work / "ablations.yaml")
    for name, target in (("probes", "probes"), ("models", ".")):
        link = work / name
        link.unlink(missing_ok=True)
        link.symlink_to(shared / "data" / target)


def run_chain(verbs: Sequence[Sequence[str]], work: Path) -> list[tuple[str, float]]:
    """Run verbs one after the other on one core; their command lines and seconds."""
    done = []
    for verb in verbs:
        started = time.time()
        line = shlex.join(["mxd", *verb])
        finished = subprocess.run(
            [sys.executable, "-m", "mxd", *verb],
            check=False,
            cwd=work,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        with (work / "study.log").open("a", encoding="utf-8") as log:
            log.write(f"$ {line}\n{finished.stdout}{finished.stderr}\n")
        if finished.returncode:
            raise SystemExit(f"{line} failed:\n{finished.stderr}")
        done.append((line, round(time.time() - started, 1)))
        sys.stdout.write(f"{done[-1][1]:7.1f} s  {line}\n")
        sys.stdout.flush()
    return done


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


if __name__ == "__main__":
    main()
