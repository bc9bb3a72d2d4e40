"""Resident memory over a long training run: does it stay flat?

    python benchmarks/soak.py --minutes 30 --out benchmarks/results

Trains an MxD and a transcoder on the bundled GPT-2's activations, epoch after epoch over the same
documents, and notes the resident memory every few seconds (Linux: reads /proc). The slope is a
least-squares line through the last two thirds, after the means of twenty blocks, because single
readings follow each other too closely for a standard error. Ctrl-C writes what there is.
"""

import argparse
import datetime as dt
import json
import threading
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from compare import machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from memory import resident
from scipy.stats import linregress

from mxd.data import PYTHON_STDLIB, Document
from mxd.demo import bundled_model
from mxd.host import load_model, load_tokenizer
from mxd.training import (
    LayerRecipe,
    Progress,
    Recipe,
    StudentSpec,
    TextRecipe,
    fit,
    named_recipe,
    training_documents,
)

BLOCKS = 20
"""Blocks of readings that the line goes through."""
LEAST_SECONDS = 300
"""What the line must span for a verdict."""
FLAT_SHARE = 0.01
"""Share of the resident memory that it may grow by in an hour and still count as flat."""


class TimeIsUpError(Exception):
    """The soak has lasted as long as was asked for."""


@dataclass
class Soak:
    """What is noted while training."""

    readings: list[tuple[float, float]]
    """Seconds since the start, resident megabytes."""
    tokens: int = 0
    """Tokens trained on."""


def main(arguments: list[str] | None = None) -> None:
    """Train until the time is up, then write a JSON file and a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two readings")
    parser.add_argument("--documents", type=int, default=200, help="read again in each epoch")
    parser.add_argument(
        "--expansion", type=float, default=32.0, help="transcoder width in units of d"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    flags = parser.parse_args(arguments)
    path = bundled_model("gpt2")
    model, tokenizer = load_model(path), load_tokenizer(path)
    plan = recipe(flags.expansion)
    documents = list(islice(iter(training_documents(plan.text, plan.seed)), flags.documents))
    epoch_tokens = _tokens(tokenizer, documents)
    print(f"an epoch has some {epoch_tokens:,} tokens", flush=True)
    soak, interrupted = Soak([]), False
    try:
        train(model, tokenizer, plan, documents, soak, flags.minutes * 60, flags.every)
    except TimeIsUpError:
        pass
    except KeyboardInterrupt:
        interrupted = True
    found = {
        "what": __doc__.splitlines()[0],
        "date": dt.date.today().isoformat(),
        "machine": machine(),
        "versions": {"torch": torch.__version__},
        "recipe": plan.to_dict(),
        "interrupted": interrupted,
        "minutes": soak.readings[-1][0] / 60 if soak.readings else 0.0,
        "tokens": soak.tokens,
        "epochs": soak.tokens / epoch_tokens,
        **slope(soak.readings),
        "seconds_and_megabytes": soak.readings,
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "soak.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    draw(soak.readings, flags.out / "soak.png")
    print(f"{found['verdict']}; {soak.tokens:,} tokens, {found['epochs']:.1f} epochs")


def recipe(expansion: float) -> Recipe:
    """A run without an end in sight: an MxD and a transcoder, text repeated."""
    return named_recipe(
        "small",
        TextRecipe(source=PYTHON_STDLIB),
        layers=(3,),
        tokens=10_000_000_000,
        students=tuple(StudentSpec(architecture=a, k=8) for a in ("mxd", "transcoder")),
        layer=LayerRecipe(expansion=expansion),
        log_every=5,
    )


def train(
    model: torch.nn.Module,
    tokenizer: object,
    plan: Recipe,
    documents: list[Document],
    soak: Soak,
    seconds: float,
    every: float,
) -> None:
    """Train, with a thread that reads the memory.

    Raises:
        TimeIsUpError: the seconds are over.
    """
    started, over = perf_counter(), threading.Event()

    def read() -> None:
        while not over.is_set():
            soak.readings.append((round(perf_counter() - started, 2), resident()))
            over.wait(every)

    def progress(found: Progress) -> None:
        soak.tokens = found.tokens
        if perf_counter() - started > seconds:
            raise TimeIsUpError

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        fit(model, tokenizer, plan, documents=documents, on_progress=progress)
    finally:
        over.set()
        reader.join()


def _tokens(tokenizer: object, documents: list[Document]) -> int:
    return sum(len(tokenizer(document.text, verbose=False).input_ids) for document in documents)


def slope(readings: list[tuple[float, float]]) -> dict[str, object]:
    """Growth over the last two thirds in megabytes an hour, its standard error, and a verdict."""
    late = np.array(readings[len(readings) // 3 :], dtype=np.float64)
    if len(late) < 2 * BLOCKS:
        return {
            "megabytes_per_hour": None,
            "standard_error": None,
            "verdict": f"too short to tell: {len(late)} readings in the last two thirds",
        }
    blocks = np.array([block.mean(0) for block in np.array_split(late, BLOCKS)])
    line = linregress(blocks[:, 0] / 3600, blocks[:, 1])
    grown, error = float(line.slope), float(np.nan_to_num(line.stderr))  # no spread: 0 / 0
    allowed = FLAT_SHARE * float(late[:, 1].mean())
    if late[-1, 0] - late[0, 0] < LEAST_SECONDS:
        word = "too short to tell"
    elif grown + 1.96 * error <= allowed:
        word = "flat"
    else:
        word = "grows" if grown - 1.96 * error > allowed else "undecided"
    numbers = f"{grown:+.2f} ± {1.96 * error:.2f} MB an hour (95 %)"
    return {
        "megabytes_per_hour": grown,
        "standard_error": error,
        "allowed_megabytes_per_hour": allowed,
        "mean_megabytes": float(late[:, 1].mean()),
        "verdict": f"{word}: {numbers}, {allowed:.1f} allowed",
    }


def draw(readings: list[tuple[float, float]], path: Path) -> None:
    """Resident memory against time, from zero."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([seconds / 60 for seconds, _ in readings], [mb for _, mb in readings])
    axes.set(xlabel="minutes of training", ylabel="resident memory (MB)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
