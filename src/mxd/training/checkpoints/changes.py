"""What has changed between a run's recipe and the one it is resumed with."""

from collections.abc import Sequence
from typing import Any

from mxd.errors import UserError

_FIXED = (
    "students", "layers", "sites", "layer", "seed", "activations", "activations_order", "load_in",
)  # fmt: skip
_FIXED_FIELDS = (
    "optimizer.batch_tokens",
    "buffer.contexts",
    "buffer.dtype",
    "buffer.refill",
    "buffer.harvest_contexts",
    "text_shards",
)


def differences(before: Any, now: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Fields that differ between two recipes, by their dotted names.

    Args:
        before: the recipe that a run was begun with, as plain data.
        now: the one that it is to go on with.
        name: name of what is compared; recipes have none.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*before, *(key for key in now if key not in before)]:
            inner = f"{name}.{key}" if name else str(key)
            found |= differences(before.get(key), now.get(key), inner)
        return found
    same = _plain(before) == _plain(now)
    return {} if same else {name: (before, now)}


def check_changes(found: dict[str, tuple[Any, Any]], accept: Sequence[str]) -> None:
    """Let the changes pass that were named, and no other.

    Args:
        found: what `differences` gave.
        accept: names of fields whose change is meant, such as `optimizer.default_lr`; a part
            (`optimizer`) means all of its fields.

    Raises:
        UserError: a change that is not named, or one that a run cannot make.
    """
    impossible = [name for name in found if _is_fixed(name)]
    if impossible:
        raise UserError(
            f"got a recipe whose {', '.join(impossible)} differ from the run's "
            f"({_told(found, impossible)}), expected the same: what is being trained cannot "
            "change while a run goes on; start a new run"
        )
    unexpected = [name for name in found if not _named(name, accept)]
    if unexpected:
        raise UserError(
            f"got a recipe that differs from the run's in {_told(found, unexpected)}, expected "
            "the same; give the flags of before, or say that these changes are meant with "
            f"--accept-changes {','.join(unexpected)}"
        )


def check_names(recipe: dict[str, Any], accept: Sequence[str]) -> None:
    """Refuse names that no field of a recipe has.

    Args:
        recipe: a recipe as plain data.
        accept: names of fields, or of parts.

    Raises:
        UserError: there is such a name.
    """
    for name in accept:
        inner: Any = recipe
        for part in name.split("."):
            if not isinstance(inner, dict) or part not in inner:
                raise UserError(
                    f"got {name!r} among the accepted changes, expected the name of a field of the "
                    f"recipe such as optimizer.default_lr, or one of {', '.join(recipe)}"
                )
            inner = inner[part]


def _is_fixed(name: str) -> bool:
    return name.split(".")[0] in _FIXED or name.startswith(_FIXED_FIELDS)


def _named(name: str, accept: Sequence[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in accept)


def _told(found: dict[str, tuple[Any, Any]], names: list[str]) -> str:
    return ", ".join(f"{name}: {found[name][0]!r} there, {found[name][1]!r} here" for name in names)


def _plain(value: Any) -> Any:
    """JSON has no tuples."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
