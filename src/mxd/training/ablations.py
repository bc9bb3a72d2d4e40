"""Ablations: a YAML file in which each line is the base line with something changed."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mxd._yaml_files import read_yaml_mapping
from mxd.errors import UserError
from mxd.training.layer_recipe import LayerOverrides
from mxd.training.recipe import StudentSpec
from mxd.training.run import from_dict


@dataclass(frozen=True)
class Ablations:
    """A base line and what is changed of it."""

    variants: dict[str, LayerOverrides]
    """What each variant changes, by its label."""
    architecture: str = "mxd"
    """Architecture of the base line."""
    k: int | None = None
    """K of the base line; None takes the first of the sweep."""
    seeds: tuple[int, ...] = ()
    """Seeds; none takes all of the sweep."""

    def students(
        self, *, k: int, seeds: tuple[int, ...], rates: tuple[float | None, ...] = (None,)
    ) -> tuple[StudentSpec, ...]:
        """The base line and its variants, for each seed and learning rate.

        Args:
            k: K where the file gives none.
            seeds: seeds where the file gives none.
            rates: learning rates; None is the recipe's.
        """
        labels: list[tuple[str | None, LayerOverrides]] = [(None, LayerOverrides())]
        return tuple(
            StudentSpec(
                architecture=self.architecture,
                k=self.k or k,
                seed=seed,
                lr=rate,
                variant=label,
                options=options,
            )
            for seed in self.seeds or seeds
            for rate in rates
            for label, options in [*labels, *self.variants.items()]
        )


def read_ablations(path: Path) -> Ablations:
    """Read and check a file of ablations.

    The file holds `ablations`, a list of mappings with a `name` and at least one field of
    `LayerOverrides`, and optionally `base` with `architecture`, `k` and `seeds`.

    Raises:
        UserError: no such file, or something in it that is not as described.
    """
    content = read_yaml_mapping(path, expected="`ablations:` with a list")
    _known(path, "the file", content, ("ablations", "base"))
    listed = content.get("ablations")
    if not isinstance(listed, list) or not listed:
        raise UserError(
            f"{path} has no list of ablations, expected `ablations:` and below it lines such as "
            "`- {name: relu-encoder, activation: relu}`"
        )
    base = _base(path, content.get("base"))
    variants: dict[str, LayerOverrides] = {}
    for number, line in enumerate(listed, start=1):
        name, options = _ablation(path, number, line)
        if name in variants:
            raise UserError(f"{path} has two ablations named {name!r}; rename one of them")
        variants[name] = options
    found = Ablations(variants, **base)
    try:
        found.students(k=1, seeds=(0,))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return found


def _base(path: Path, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path} has a base {value!r}, expected architecture, k or seeds below it")
    _known(path, "base", value, ("architecture", "k", "seeds"))
    kinds = {"architecture": (str, "a name"), "k": (int, "a whole number")}
    found: dict[str, Any] = {}
    for key, (kind, meaning) in kinds.items():
        if key in value:
            if type(value[key]) is not kind:
                raise UserError(f"{path} has base {key}: {value[key]!r}, expected {meaning}")
            found[key] = value[key]
    if "seeds" in value:
        seeds = value["seeds"]
        if not isinstance(seeds, list) or not seeds or any(type(s) is not int for s in seeds):
            raise UserError(f"{path} has base seeds: {seeds!r}, expected a list such as [42, 43]")
        found["seeds"] = tuple(dict.fromkeys(seeds))
    if found.get("k", 1) < 1:
        raise UserError(f"{path} has base k: {found['k']}, expected at least 1; raise it")
    return found


def _ablation(path: Path, number: int, line: Any) -> tuple[str, LayerOverrides]:
    where = f"ablation {number}"
    if not isinstance(line, dict) or not isinstance(line.get("name"), str):
        raise UserError(
            f"{path} has {line!r} as {where}, expected a mapping with a name, such as "
            "`{name: relu-encoder, activation: relu}`"
        )
    options = tuple(field.name for field in fields(LayerOverrides))
    _known(path, where, line, ("name", *options))
    changes = {key: value for key, value in line.items() if key != "name"}
    empty = [key for key, value in changes.items() if value is None]
    if not changes or empty:
        raise UserError(
            f"{path} changes nothing in {where} ({line['name']}{''.join(f', {e}' for e in empty)}),"
            f" expected a value for one of {', '.join(options)}; the base line comes by itself"
        )
    return line["name"], from_dict(LayerOverrides, changes, f"{path}, {where} ({line['name']}),")


def _known(path: Path, where: str, content: dict[Any, Any], keys: tuple[str, ...]) -> None:
    unknown = [key for key in content if key not in keys]
    if unknown:
        raise UserError(
            f"{path} has the key {unknown[0]!r} in {where}, expected {', '.join(keys)}; mend it"
        )
