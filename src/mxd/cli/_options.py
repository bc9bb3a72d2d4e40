"""The flags of `mxd fit`, each with its default and unit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from mxd.cli._places import PLACE_OPTIONS, TENSOR_PARALLEL_OPTION
from mxd.cli._types import COUNT, DEVICE, INTEGERS, NAMES, RATES
from mxd.layers import ARCHITECTURES
from mxd.training import LOSSES, STARTS

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[Any], Any]

_AS_RECIPE = "[default: the recipe's]"

PREFETCH_OPTION: Option = click.option(
    "--prefetch", type=click.IntRange(min=0),
    help="Passes of the language model made ahead by a background thread.  "
    "[default: 0 on the CPU, 2 on an accelerator]",
)  # fmt: skip


def source_options(without_text: str = "[required]") -> list[Option]:
    """Which text is read, and how it is packed.

    Args:
        without_text: what the help says of a command line without --text.
    """
    return [_text_option(without_text), *_OF_TEXT]


def _text_option(without_text: str) -> Option:
    return click.option(
        "--text",
        help="Text to train on: a data set's id, a dataset folder, a .jsonl[.gz], .parquet or .txt "
        f"file, a folder or glob of those, or python-stdlib.  {without_text}",
    )


_OF_TEXT: list[Option] = [
    click.option(
        "--eval-text",
        help="Text to evaluate on; documents it shares with --text are not trained on.  "
        "[default: a held-out part of --text]",
    ),
    click.option(
        "--holdout", type=float, default=0.05, show_default=True,
        help="Share of the documents held out where there is no --eval-text.",
    ),
    click.option(
        "--text-column", default="text", show_default=True, help="Column that holds the text."
    ),
    click.option(
        "--doc-column", default="doc", show_default=True,
        help="Column that names a record's document; equal values are one document.",
    ),
    click.option("--text-name", help="Configuration of a data set that has several."),
    click.option(
        "--text-split", default="train", show_default=True, help="Split of a data set."
    ),
    click.option(
        "--skip-damaged", is_flag=True,
        help="Leave out damaged records, and what cannot be read of damaged files, instead of "
        "ending; each is named.",
    ),
    click.option(
        "--context", type=COUNT, default=128, show_default=True, help="Tokens in a context."
    ),
    click.option(
        "--separator", type=click.Choice(["eos", "bos", "none"]), default="eos", show_default=True,
        help="Token between two documents in a context.",
    ),
]  # fmt: skip

_OF_TRAINING_TEXT: list[Option] = [
    click.option(
        "--exclude-from-training", type=NAMES,
        help="Tokens not trained on: bos, eos, pad, unk, all, or tokens as spelt.  [default: none]",
    ),
    click.option(
        "--exclude-from-evaluation", type=NAMES,
        help="Tokens not counted in evaluation, likewise.  [default: none]",
    ),
    click.option(
        "--on-exhausted", type=click.Choice(["repeat", "stop"]), default="repeat",
        show_default=True, help="When the text ends before --tokens: another epoch, or stop.",
    ),
    click.option(
        "--activations", type=click.Path(path_type=Path),
        help="Cache that `mxd harvest` wrote, to train from instead of running MODEL over text; "
        "the flags about text are then the cache's and --text is not needed.  [default: none]",
    ),
    click.option(
        "--activations-order", type=click.Choice(["shuffled", "harvested"]), default="shuffled",
        show_default=True,
        help="How a cache is read: mixed across its files, or in the order of the harvest, which "
        "trains the same as --text would.",
    ),
    click.option(
        "--skip-checksums", is_flag=True,
        help="Do not compare a cache's files with their checksums.",
    ),
]  # fmt: skip

SITE_OPTIONS: list[Option] = [
    click.option("--layers", type=INTEGERS, help="Blocks whose MLP is taken apart, from 0."),
    click.option(
        "--site", type=NAMES,
        help="Modules to take apart by name, for blocks whose MLP is not found by itself.",
    ),
]  # fmt: skip

LAYER_OPTIONS: list[Option] = [
    *SITE_OPTIONS,
    click.option(
        "--arch", type=NAMES, default="mxd,transcoder,skip_transcoder", show_default=True,
        help=f"Architectures: {', '.join(ARCHITECTURES)}.",
    ),
    click.option("--k", type=INTEGERS, default="32", show_default=True, help="Active units, K."),
    click.option(
        "--expansion", type=float, default=32, show_default=True,
        help="Width, in units of d, of the transcoder that all layers have the parameters of.",
    ),
    click.option(
        "--rule", type=click.Choice(["exact", "paper"]),
        help=f"How the N of an MxD is matched: exactly, or as the paper counts.  {_AS_RECIPE}",
    ),
    click.option("--width", type=COUNT, help="Number of units N, instead of --expansion."),
    click.option(
        "--d-hidden", type=COUNT, help="Width H of the dense hidden units.  [default: the MLP's]"
    ),
    click.option("--activation", help="Activation of those, by its name.  [default: the MLP's]"),
    click.option(
        "--sparsity", type=click.Choice(["topk", "l1"]), default="topk", show_default=True,
        help="Top-k, or a penalty on the coefficients.",
    ),
    click.option("--random-k", is_flag=True, help="Draw K anew at each step from K ± K/2."),
    click.option(
        "--unit-norm", is_flag=True,
        help="Keep modulators or decoder rows at unit norm (not skip_transcoder, mlp_transcoder).",
    ),
    click.option(
        "--shared-experts", type=int, default=0, show_default=True,
        help="Experts of an MxD that are always on; they count among the K.",
    ),
    click.option(
        "--start", type=click.Choice(STARTS), default="paper", show_default=True,
        help="How dense branch and modulators start: D at zero, D at random, encoder and D of the "
        "base MLP, or modulators near 1.",
    ),
]  # fmt: skip

TRAINING_OPTIONS: list[Option] = [
    click.option("--tokens", type=COUNT, help=f"Training tokens.  {_AS_RECIPE}"),
    click.option(
        "--recipe", type=click.Choice(["auto", "paper", "small"]), default="auto",
        show_default=True,
        help="Named recipe; auto takes small below 10,000 steps of 4,096 tokens (or of "
        "--batch-tokens) and paper from there on.",
    ),
    click.option(
        "--seed", type=INTEGERS, default="42", show_default=True,
        help="Seeds; several train a layer for each. The first also orders the text.",
    ),
    click.option(
        "--lr", type=RATES, help=f"Learning rates; several train a layer for each.  {_AS_RECIPE}"
    ),
    click.option("--loss", help=f"Loss: {', '.join(LOSSES)}.  {_AS_RECIPE}"),
    click.option("--batch-tokens", type=COUNT, help=f"Tokens in a step.  {_AS_RECIPE}"),
    click.option(
        "--micro-tokens", type=COUNT,
        help="Tokens that a layer computes at one time, to save memory.  [default: a whole batch, "
        "less when memory runs out]",
    ),
    click.option("--clip-norm", type=float, help=f"Largest norm of a gradient.  {_AS_RECIPE}"),
    click.option(
        "--l1-coefficient", type=float, help=f"Weight of the l1 penalty.  {_AS_RECIPE}"
    ),
    click.option(
        "--auxk-coefficient", type=float,
        help=f"Weight of the loss that revives dead units; 0 is off.  {_AS_RECIPE}",
    ),
    click.option(
        "--precision", type=click.Choice(["auto", "float32", "bf16"]), default="auto",
        show_default=True,
        help="Matrix products in training; auto is bf16 where the hardware has it.",
    ),
    click.option(
        "--buffer-contexts", type=COUNT, help=f"Contexts in the shuffle buffer.  {_AS_RECIPE}"
    ),
    click.option(
        "--buffer-dtype", type=click.Choice(["float32", "bfloat16"]),
        help=f"Type that the buffer stores activations in.  {_AS_RECIPE}",
    ),
    click.option(
        "--buffer-device", help=f"Where the buffer lives.  {_AS_RECIPE}"
    ),
    click.option(
        "--harvest-contexts", type=COUNT,
        help=f"Contexts in a forward pass of the language model.  {_AS_RECIPE}",
    ),
    PREFETCH_OPTION,
]  # fmt: skip

RUN_OPTIONS: list[Option] = [
    click.option("--overwrite", is_flag=True, help="Replace the run in --out."),
    click.option(
        "--device", type=DEVICE, default="cpu", show_default=True,
        help="Such as cpu, cuda, cuda:1.",
    ),
    click.option(
        "--dtype", type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
        default="float32", show_default=True, help="Type that the language model is loaded in.",
    ),
    click.option("--revision", help="Commit or branch of the model on the hub."),
    click.option(
        "--log-every", type=COUNT, default=50, show_default=True,
        help="Steps between two lines of metrics.",
    ),
    click.option(
        "--track-experts", type=click.IntRange(min=0), default=4, show_default=True,
        help="Experts of each MxD whose smallest singular value is followed; 0 is off.",
    ),
    click.option(
        "--compile-model", is_flag=True,
        help="Run the model's blocks through torch.compile: a tenth faster on CPUs, after half a "
        "minute at the start; needs a C++ compiler.",
    ),
    click.option(
        "--trackers", type=NAMES, help="Further trackers: wandb, trackio.  [default: none]"
    ),
    *PLACE_OPTIONS,
]  # fmt: skip


CHECKPOINT_OPTIONS: list[Option] = [
    click.option(
        "--checkpoint-every", type=COUNT,
        help="Steps between two checkpoints of the run.  [default: none but on Ctrl-C or SIGTERM]",
    ),
    click.option(
        "--checkpoint-minutes", type=click.FloatRange(min=0, min_open=True),
        help="Minutes between two checkpoints of the run.  [default: none]",
    ),
    click.option(
        "--keep-checkpoints", type=click.IntRange(min=1), default=2, show_default=True,
        help="Newest checkpoints that are kept.",
    ),
    click.option(
        "--resume", is_flag=True,
        help="Go on from the newest good checkpoint in --out, to the same layers that a run "
        "without interruption gives; begin where there is none yet.",
    ),
    click.option(
        "--accept-changes", type=NAMES,
        help="With --resume: fields of the recipe whose change is meant, such as "
        "optimizer.default_lr.  [default: none]",
    ),
]  # fmt: skip


PROCESS_OPTIONS: list[Option] = [
    click.option(
        "--layout",
        help="Under torchrun: how the processes divide the work, sizes of data, students and "
        "experts such as data=2,experts=2, whose product is their number.  [default: data alone]",
    ),
    click.option(
        "--text-shards", type=COUNT,
        help="Parts that the text is dealt out to; what is trained depends on them and not on the "
        "number of processes.  [default: one for each process]",
    ),
    click.option(
        "--distributed-timeout", type=click.FloatRange(min=0, min_open=True), default=60.0,
        show_default=True,
        help="Under torchrun: minutes that a process waits for the others before it takes them for "
        "lost; more than a source of text may be away.",
    ),
    TENSOR_PARALLEL_OPTION,
]  # fmt: skip


def output_options(verb: str, json_help: str) -> list[Option]:
    """Where a training verb puts its run, and its results in JSON."""
    return [
        click.option(
            "--out", type=click.Path(path_type=Path),
            help=f"Folder of the run.  [default: the next free mxd-{verb}-MODEL]",
        ),
        click.option("--json", "json_file", type=click.Path(path_type=Path), help=json_help),
    ]  # fmt: skip


_TRAINING = _OF_TRAINING_TEXT + LAYER_OPTIONS + TRAINING_OPTIONS + RUN_OPTIONS + CHECKPOINT_OPTIONS
FIT_OPTIONS = (
    source_options("[default: that of --activations; required without]")
    + _TRAINING
    + PROCESS_OPTIONS
    + output_options("fit", "File for the record of the run, as in its run.json.")
)
GRID_OPTIONS: list[Option] = [
    click.option(
        "--controls", type=NAMES,
        help="Architectures to train at one K only, beside the grid, such as "
        "mlp_transcoder,dense_mlp.  [default: none]",
    ),
    click.option(
        "--control-k", type=COUNT, help="That K.  [default: the middle one of --k]"
    ),
]  # fmt: skip
SWEEP_OPTIONS = (
    GRID_OPTIONS
    + source_options("[default: that of --activations or --preset; required without]")
    + _TRAINING
    + output_options("sweep", "File for the figures, the same document as of `mxd eval --json`.")
)


def options(wanted: Sequence[Option]) -> Callable[[F], F]:
    """Decorate a command with options, in the order they are listed."""

    def decorate(command: F) -> F:
        for option in reversed(wanted):
            command = option(command)
        return command

    return decorate


def given_flags(context: click.Context) -> set[str]:
    """Names of the parameters that were typed, or stand in the file of --config."""
    left = (None, ParameterSource.DEFAULT)
    return {name for name in context.params if context.get_parameter_source(name) not in left}
