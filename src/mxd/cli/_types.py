"""Parameter types of the command line: lists, counts, and YAML files of flags."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mxd._yaml_files import read_yaml_mapping
from mxd.errors import UserError
from mxd.host import check_device

F = TypeVar("F", bound=Callable[..., Any])


class Listed(click.ParamType):  # type: ignore[type-arg]
    """A comma-separated list."""

    def __init__(self, item: Callable[[str], Any], name: str) -> None:
        self._item, self.name = item, name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """From text, or from the list or number that a YAML file holds."""
        if isinstance(value, tuple):
            return value
        parts = value if isinstance(value, list) else str(value).split(",")
        if not parts:
            self.fail(f"got an empty list, expected {self.name}", param, ctx)
        return tuple(dict.fromkeys(self._one(str(part).strip(), param, ctx) for part in parts))

    def _one(self, part: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._item(part)
        except ValueError:
            self.fail(f"got {part!r}, expected a list of {self.name}", param, ctx)


class Count(click.ParamType):  # type: ignore[type-arg]
    """A whole number that may be written as 2e6."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """From text or a number."""
        try:
            number = float(value)
            if number != int(number) or number < 1:
                raise ValueError
        except (ValueError, OverflowError):
            self.fail(
                f"got {value!r}, expected a whole number of at least 1, such as 2e6", param, ctx
            )
        return int(number)


class Device(click.ParamType):  # type: ignore[type-arg]
    """A device that is there and holds numbers."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """From its name."""
        try:
            if check_device(str(value)).type == "meta":
                raise UserError("got device 'meta', expected one that holds numbers, such as cpu")
        except UserError as error:
            self.fail(str(error), param, ctx)
        return str(value)


DEVICE = Device()
INTEGERS = Listed(int, "whole numbers")
RATES = Listed(float, "numbers")
NAMES = Listed(str, "names")
COUNT = Count()


def with_config(command: F) -> F:
    """Give a command `--config FILE`: a YAML file whose keys are the command's long flags."""

    def load(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
        if value is None:
            return
        known = {
            name.removeprefix("--").replace("-", "_"): param
            for param in ctx.command.params
            for name in (*param.opts, param.name or "")
        }
        defaults = {}
        for key, item in _flags(value).items():
            param = known.get(str(key).replace("-", "_"))
            if param is None or param.name in (None, "config"):
                raise click.UsageError(
                    f"{value} has the key {key!r}, expected the long flags of `{ctx.info_name}` "
                    "without dashes"
                )
            if item is not None:  # a key without a value leaves the default
                defaults[param.name] = _as_typed(item, param, ctx)
        ctx.default_map = {**(ctx.default_map or {}), **defaults}

    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=load,
        help="YAML file whose keys are these flags without dashes; flags given here win.",
    )(command)


def _as_typed(item: Any, param: click.Parameter, ctx: click.Context) -> Any:
    """A value of a YAML file in the form that the flag's own type takes."""
    if isinstance(item, bool):
        return item

    def text(part: Any) -> str:
        return _encodable(str(part), param, ctx)

    if getattr(param, "multiple", False):  # a flag that may be given again: a list, or one value
        parts = item if isinstance(item, list) else [item]
        if all(isinstance(part, (str, int, float)) for part in parts):
            return [text(part) for part in parts]
    if isinstance(item, (str, int, float)):
        return text(item)
    if isinstance(item, list) and isinstance(param.type, Listed):
        return [text(part) for part in item]
    raise click.BadParameter(f"got {item!r}, expected one value as on a command line", ctx, param)


def _encodable(text: str, param: click.Parameter, ctx: click.Context) -> str:
    """The text, if a command line could hold it: the system ends texts at NUL and knows bytes."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        text = "\0"
    if "\0" in text:
        raise click.BadParameter(
            "got a text with NUL or half a character, expected one as on a command line", ctx, param
        )
    return text


def _flags(path: Path) -> dict[Any, Any]:
    try:
        return read_yaml_mapping(path, expected="flags and their values")
    except UserError as error:
        raise click.UsageError(str(error)) from None
