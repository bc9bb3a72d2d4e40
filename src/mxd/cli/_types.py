"""Parameter types of the command line: lists, counts, and YAML files of flags."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

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
            name.removeprefix("--").replace("-", "_"): param.name
            for param in ctx.command.params
            for name in (*param.opts, param.name or "")
        }
        defaults = {}
        for key, item in _read(value).items():
            name = known.get(str(key).replace("-", "_"))
            if name is None or name == "config":
                raise click.UsageError(
                    f"{value} has the key {key!r}, expected the long flags of `{ctx.info_name}` "
                    "without dashes"
                )
            defaults[name] = item
        ctx.default_map = {**(ctx.default_map or {}), **defaults}

    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=load,
        help="YAML file whose keys are these flags without dashes; flags given here win.",
    )(command)


def _read(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise click.UsageError(f"{path} holds no keys, expected flags and their values")
    return content
