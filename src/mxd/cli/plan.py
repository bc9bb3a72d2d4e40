"""`mxd plan`: what a training will need, and how to lay it out, before anything is loaded."""

import os
from typing import Any

import click
import torch
from rich.console import Console
from transformers import PreTrainedModel

from mxd.cli._options import options
from mxd.cli._paths import check_json_target, check_writable, write_json
from mxd.cli._plan_options import PLAN_OPTIONS
from mxd.cli._plan_screen import show_plan
from mxd.cli._run import command_line
from mxd.cli._screen import Pace, _one_line, console
from mxd.cli._types import with_config
from mxd.demo import resolve_model
from mxd.errors import UserError
from mxd.host import MLPSite, find_mlps, find_site
from mxd.host.skeleton import load_skeleton
from mxd.layers import layer_class
from mxd.planning import (
    Device,
    ModelShape,
    Plan,
    Training,
    Unmasked,
    calibrate,
    describe_model,
    device_of,
    make_plan,
    plan_document,
    plan_students,
)
from mxd.training import LayerRecipe
from mxd.training.distributed.layout import Layout

_ALL = "all"
_HIGHEST_PRICE = 10**6


@click.command("plan")
@click.argument("model")
@options(PLAN_OPTIONS)
@with_config
def plan_training(model: str, **flags: Any) -> None:
    """Say what a training of layers for MODEL needs, and which layout is best, from its config.

    MODEL is as in `mxd fit`, but its weights are never needed: a folder with a config.json is
    enough. Tells parameters, memory part by part, operations, tokens/s, hours, and what each
    process sends; nothing is trained.
    """
    check_json_target(flags["json_file"])
    _check_price(flags["price_per_hour"])
    _check_calibration(flags)
    for architecture in flags["arch"]:
        layer_class(architecture)
    screen = console()
    screen.print(f"Counting what {_one_line(model)} needs, without its weights …", markup=False)
    training = _training(_model_shape(model, flags, screen), flags)
    if flags["calibrate"] is not None:
        screen.print("Measuring this machine …", markup=False)
        write_json(flags["calibrate"], {"kind": "calibration", **calibrate(_machine())})
    plan = _plan(training, flags)
    document = {
        "kind": "plan",
        "command": command_line(),
        **plan_document(plan, flags["price_per_hour"]),
    }
    write_json(flags["json_file"], document)
    show_plan(screen, plan, document)


def _plan(training: Training, flags: dict[str, Any]) -> Plan:
    devices, layout = flags["devices"], None
    if flags["layout"] is not None:
        layout = Layout.parse(flags["layout"], devices)
    return make_plan(
        training, _device(flags), devices=devices, per_node=flags["devices_per_node"], layout=layout
    )


def _device(flags: dict[str, Any]) -> Device:
    kind, memory, host = flags["device_kind"], flags["memory"], flags["host_memory"]
    if kind == "cpu" and memory is None:
        memory = host or _memory_here()
    return device_of(
        kind,
        memory_bytes=memory,
        host_memory_bytes=host,
        distance=flags["distance"],
        ceilings=flags["calibrate"] or flags["ceilings"],
    )


def _check_price(price: float | None) -> None:
    if price is not None and not 0 <= price <= _HIGHEST_PRICE:  # NaN is neither
        raise UserError(
            f"got --price-per-hour {price}, expected 0 to {_HIGHEST_PRICE:,}; give the price of "
            "one device for an hour"
        )


def _check_calibration(flags: dict[str, Any]) -> None:
    """Find what is wrong with --calibrate before anything is measured."""
    path = flags["calibrate"]
    if path is None:
        return
    if flags["device_kind"] != "cpu":
        raise UserError(
            f"got --calibrate with --device-kind {flags['device_kind']}, expected cpu: only this "
            "machine's processor is measured; leave one of them out"
        )
    if flags["ceilings"] is not None:
        raise UserError("got --calibrate and --ceilings, expected one of them; leave one out")
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"got --calibrate {path}, expected a file in a folder that exists; name another"
        )
    check_writable(path.parent)


def _memory_here() -> int | None:
    """Memory of this machine in bytes, where the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _machine() -> str:
    return f"this machine, {torch.get_num_threads()} threads"


def _model_shape(model: str, flags: dict[str, Any], screen: Console) -> ModelShape:
    dtype = flags["dtype"]
    if dtype is None:
        dtype = "float32" if flags["device_kind"] == "cpu" else "auto"
    skeleton = load_skeleton(resolve_model(model), dtype=dtype, revision=flags["revision"])
    pace = Pace()

    def tell(done: int, count: int) -> None:
        if pace.is_due():
            screen.print(f"{done:,} of {count:,} blocks of the model are counted")

    return describe_model(
        skeleton,
        _sites(skeleton, flags),
        name=model,
        contexts=flags["harvest_contexts"],
        length=flags["context"],
        load_in=flags["load_in"],
        on_block=tell,
    )


def _sites(skeleton: PreTrainedModel, flags: dict[str, Any]) -> list[MLPSite]:
    """The sites asked for; without any, the MLP in the middle of the model."""
    with Unmasked():
        return _found(skeleton, flags)


def _found(skeleton: PreTrainedModel, flags: dict[str, Any]) -> list[MLPSite]:
    layers, names = flags["layers"] or (), flags["site"] or ()
    if _ALL in layers:
        found = find_mlps(skeleton)
    elif layers or names:
        found = [find_site(skeleton, _index(layer)) for layer in layers]
    else:
        every = find_mlps(skeleton)
        found = [every[len(every) // 2]]
    found += [find_site(skeleton, name) for name in names]
    return list({site.name: site for site in found}.values())


def _index(layer: str) -> int:
    try:
        return int(layer)
    except ValueError:
        raise UserError(
            f"got --layers {layer!r}, expected whole numbers such as 3,7 or all"
        ) from None


def _training(shape: ModelShape, flags: dict[str, Any]) -> Training:
    students = plan_students(
        shape.sites,
        architectures=flags["arch"],
        ks=flags["k"],
        seeds=flags["seed"],
        recipe=LayerRecipe(
            expansion=flags["expansion"],
            width=flags["width"],
            rule=flags["rule"],
            d_hidden=flags["d_hidden"],
            activation=flags["activation"],
        ),
        batch_tokens=flags["batch_tokens"],
        micro_tokens=flags["micro_tokens"],
    )
    accelerated = flags["device_kind"] != "cpu"
    precision, prefetch = flags["precision"], flags["prefetch"]
    if precision == "auto":
        precision = "bf16" if accelerated else "float32"
    return Training(
        model=shape,
        students=students,
        tokens=flags["tokens"],
        batch_tokens=flags["batch_tokens"],
        buffer_tokens=max(flags["buffer_contexts"] * flags["context"], flags["batch_tokens"]),
        buffer_element={"float32": 4, "bfloat16": 2}[flags["buffer_dtype"]],
        buffer_on_device=accelerated and flags["buffer_device"] == "device",
        prefetch=(2 if accelerated else 0) if prefetch is None else prefetch,
        precision=precision,
        checkpoints=not flags["no_checkpoints"],
        track_experts=flags["track_experts"] > 0,
    )
