"""The flags of `mxd plan`, each with its default and unit."""

from pathlib import Path
from typing import Any

import click

from mxd.cli._options import PREFETCH_OPTION
from mxd.cli._types import COUNT, INTEGERS, NAMES
from mxd.cli.harvest import Size
from mxd.host import QUANTISED
from mxd.layers import ARCHITECTURES
from mxd.planning import KINDS

_LAYERS: list[Any] = [
    click.option(
        "--layers", type=NAMES,
        help="Blocks whose MLP is taken apart, from 0, or all.  [default: the middle one]",
    ),
    click.option("--site", type=NAMES, help="Modules to take apart by name."),
    click.option(
        "--arch", type=NAMES, default="mxd", show_default=True,
        help=f"Architectures: {', '.join(ARCHITECTURES)}.",
    ),
    click.option("--k", type=INTEGERS, default="32", show_default=True, help="Active units, K."),
    click.option(
        "--seed", type=INTEGERS, default="42", show_default=True, help="Seeds, a layer for each."
    ),
    click.option(
        "--expansion", type=float, default=32, show_default=True,
        help="Width, in units of d, of the transcoder that all layers have the parameters of.",
    ),
    click.option(
        "--rule", type=click.Choice(["exact", "paper"]), default="exact", show_default=True,
        help="How the N of an MxD is matched: exactly, or as the paper counts.",
    ),
    click.option("--width", type=COUNT, help="Number of units N, instead of --expansion."),
    click.option(
        "--d-hidden", type=COUNT, help="Width H of the dense hidden units.  [default: the MLP's]"
    ),
    click.option("--activation", help="Activation of those, by its name.  [default: the MLP's]"),
]  # fmt: skip

_TRAINING: list[Any] = [
    click.option(
        "--tokens", type=COUNT, default=480_000_000, show_default=True, help="Training tokens."
    ),
    click.option(
        "--batch-tokens", type=COUNT, default=4096, show_default=True,
        help="Tokens in a step, of all devices together.",
    ),
    click.option(
        "--micro-tokens", type=COUNT,
        help="Tokens that a layer's dense part computes at one time.  [default: a whole batch]",
    ),
    click.option(
        "--context", type=COUNT, default=128, show_default=True, help="Tokens in a context."
    ),
    click.option(
        "--harvest-contexts", type=COUNT, default=32, show_default=True,
        help="Contexts in a forward pass of the language model.",
    ),
    click.option(
        "--buffer-contexts", type=COUNT, default=4096, show_default=True,
        help="Contexts in the shuffle buffer, of all devices together.",
    ),
    click.option(
        "--buffer-dtype", type=click.Choice(["float32", "bfloat16"]), default="float32",
        show_default=True, help="Type that the buffer stores activations in.",
    ),
    click.option(
        "--buffer-device", type=click.Choice(["host", "device"]), default="host",
        show_default=True, help="Whether the buffer is in the host's or an accelerator's memory.",
    ),
    PREFETCH_OPTION,
    click.option(
        "--precision", type=click.Choice(["auto", "float32", "tf32", "bf16"]), default="auto",
        show_default=True, help="Matrix products in training; auto is bf16 on accelerators.",
    ),
    click.option(
        "--dtype", type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
        help="Type that the language model is loaded in.  [default: float32 on a CPU, else auto, "
        "the one that its configuration names]",
    ),
    click.option(
        "--load-in", type=click.Choice(QUANTISED),
        help="What the model's linear layers are quantised to; their bytes are estimated.  "
        "[default: what its configuration says]",
    ),
    click.option(
        "--track-experts", type=click.IntRange(min=0), default=4, show_default=True,
        help="Experts of each MxD whose smallest singular value is followed; 0 is off.",
    ),
    click.option(
        "--no-checkpoints", is_flag=True,
        help="Leave out the copy of the state that writing checkpoints takes.",
    ),
]  # fmt: skip

_DEVICES: list[Any] = [
    click.option(
        "--device-kind", type=click.Choice(list(KINDS)), default="cpu", show_default=True,
        help="Kind of device: cpu is this machine, the others are known from data sheets.",
    ),
    click.option(
        "--devices", type=COUNT, default=1, show_default=True,
        help="Number of devices, each driven by one process.",
    ),
    click.option(
        "--devices-per-node", type=COUNT, default=8, show_default=True,
        help="Devices that are joined by fast links.",
    ),
    click.option(
        "--layout",
        help="Sizes of the mesh such as data=4,experts=2.  [default: the best that fits]",
    ),
    click.option(
        "--memory", type=Size(),
        help="Memory of a device such as 24GB, 80GiB or a number of bytes.  [default: the data "
        "sheet's; this machine's]",
    ),
    click.option(
        "--host-memory", type=Size(),
        help="Memory of a node's host, which the processes of its devices share, such as 2TB.  "
        "[default: this machine's on a CPU, else not known and not looked at]",
    ),
    click.option(
        "--ceilings", type=click.Path(path_type=Path),
        help="File of rates that --calibrate or benchmarks/engine_costs.py wrote.  [default: the "
        "data sheet's; none for a CPU]",
    ),
    click.option(
        "--calibrate", type=click.Path(path_type=Path),
        help="Measure this machine's rates, half a minute or so, write them to this file and use "
        "them.  [default: not measured]",
    ),
    click.option(
        "--distance", type=float,
        help="How many times its floor computation takes.  [default: as measured, else 2, an "
        "assumption]",
    ),
    click.option(
        "--price-per-hour", type=float,
        help="Price of one device for an hour, in any currency.  [default: no cost is told]",
    ),
    click.option("--revision", help="Commit or branch of the model on the hub."),
    click.option(
        "--json", "json_file", type=click.Path(path_type=Path), help="File for the plan."
    ),
]  # fmt: skip

PLAN_OPTIONS = _LAYERS + _TRAINING + _DEVICES
