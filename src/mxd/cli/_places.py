"""The flags that say where a language model goes, other than whole onto one device."""

from typing import Any

import click

from mxd.errors import UserError
from mxd.host import DEVICE_MAPS, QUANTISED, read_device_map

AS_THE_RUN = "as-the-run"
"""Loads a model as the run had it."""


class DeviceMap(click.ParamType):  # type: ignore[type-arg]
    """A way to spread a model, or a JSON file with devices by the names of modules."""

    name = "map"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """From text."""
        if isinstance(value, dict):  # it is converted already
            return value
        try:
            return read_device_map(str(value))
        except UserError as error:
            self.fail(str(error), param, ctx)


DEVICE_MAP_OPTION = click.option(
    "--device-map", type=DeviceMap(),
    help=f"Spread the model over the devices of this machine: {', '.join(DEVICE_MAPS)}, or a JSON "
    "file with a device (or disk) for each module by its name; needs accelerate. The layers are on "
    "--device.  [default: the model whole on --device]",
)  # fmt: skip
PLACE_OPTIONS: list[Any] = [
    DEVICE_MAP_OPTION,
    click.option(
        "--load-in", type=click.Choice(QUANTISED),
        help="Quantise the model's linear layers, through bitsandbytes (experimental): layers then "
        "stand in for the quantised MLPs.  [default: none]",
    ),
]  # fmt: skip
RUN_PLACE_OPTIONS: list[Any] = [
    DEVICE_MAP_OPTION,
    click.option(
        "--load-in", type=click.Choice([AS_THE_RUN, "none", *QUANTISED]), default=AS_THE_RUN,
        show_default=True,
        help="What the model's linear layers are quantised to, through bitsandbytes "
        "(experimental).",
    ),
]  # fmt: skip
TENSOR_PARALLEL_OPTION = click.option(
    "--tensor-parallel", is_flag=True,
    help="Under torchrun: each process holds a part of every layer of the model, by the plan that "
    "transformers has for it, and all make each pass together; needs accelerate.",
)  # fmt: skip


def place_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Of a verb that works on a run: what `open_with_model` takes."""
    return {name: flags[name] for name in ("model", "device", "device_map", "load_in")}


def quantised_as(load_in: str, of_the_run: str | None) -> str | None:
    """What --load-in comes to for a run."""
    if load_in == AS_THE_RUN:
        return of_the_run
    return None if load_in == "none" else load_in
