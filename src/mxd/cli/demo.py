"""`mxd demo`: the main job, end to end, on a bundled language model."""

import sys
import time
from pathlib import Path

import click

from mxd.cli._paths import check_json_target, keeping, next_free, write_json
from mxd.cli._screen import (
    console,
    evaluation_progress,
    show_figures,
    show_steered,
    show_units,
    training_progress,
)
from mxd.cli._types import COUNT, with_config
from mxd.demo import run_demo
from mxd.demo.run import DEMO_TOKENS, EVALUATION_TOKENS


@click.command()
@click.option(
    "--arch",
    type=click.Choice(["gpt2", "llama"]),
    default="gpt2",
    show_default=True,
    help="Which bundled model: gpt2 has an MLP, llama a GLU.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the run; where it exists, a number is put behind.  [default: mxd-demo-ARCH]",
)
@click.option(
    "--tokens", type=COUNT, default=DEMO_TOKENS, show_default=True, help="Training tokens."
)
@click.option("--seed", type=int, default=42, show_default=True, help="Seed of everything.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    help="File for the figures, the same document as of `mxd eval --json`.",
)
@with_config
def demo(arch: str, out: Path | None, tokens: int, seed: int, json_file: Path | None) -> None:
    """Take one MLP of a small language model apart, put it back, and see what that cost.

    Trains Mixtures of Decoders, transcoders and skip transcoders with equal parameters, and two
    controls, from one pass of a bundled model over the source of Python's standard library. The
    bundled models were trained on text of that kind.
    """
    check_json_target(json_file)
    folder = next_free(out or Path(f"mxd-demo-{arch}"))
    screen, started = console(), time.monotonic()
    with keeping(folder), training_progress(screen) as progress:
        result = run_demo(
            arch,
            folder,
            tokens=tokens,
            seed=seed,
            command=["mxd", *sys.argv[1:]],
            on_progress=progress,
            on_evaluated=evaluation_progress(screen, EVALUATION_TOKENS),
            on_stage=lambda text: screen.print(f"{text} …", markup=False),
        )
    document = result.evaluation.to_dict()
    write_json(json_file, document)
    show_figures(screen, document)
    show_units(screen, result.student, result.units)
    if result.steered is not None:
        show_steered(screen, result.steered)
    screen.print(
        f"\nDone in {time.monotonic() - started:.0f} s. Report: {result.report}\n"
        f"Picture: {folder / 'figures' / 'frontier.png'}",
        markup=False,
    )
