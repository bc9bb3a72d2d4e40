"""The run that a verb works on: its layers, its base model, and which of its layers are meant."""

import shlex
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mxd.cli._paths import check_writable
from mxd.cli._places import AS_THE_RUN, RUN_PLACE_OPTIONS, quantised_as
from mxd.cli._types import DEVICE, NAMES
from mxd.demo import resolve_model
from mxd.errors import UserError
from mxd.host import load_model, load_tokenizer
from mxd.layers import Layer, SparseLayer
from mxd.training import Run, open_run

MODEL_OPTIONS: list[Any] = [
    click.option("--model", help="Base model, where it is not where the run says."),
    click.option(
        "--device", type=DEVICE, default="cpu", show_default=True, help="Such as cpu, cuda, cuda:1."
    ),
    *RUN_PLACE_OPTIONS,
]
STUDENT_OPTION = click.option(
    "--student", type=NAMES,
    help="Layers by name, by architecture, or by a pattern of names such as '*-k16-*-s42'.  "
    "[default: all that the verb applies to]",
)  # fmt: skip
SITE_OPTION = click.option("--site", help="Site by name, where the run has several.")


@dataclass(frozen=True)
class Opened:
    """A run, and the model that its layers are for."""

    run: Run
    """The run."""
    folder: Path
    """Its folder."""
    model: PreTrainedModel
    """Its base model, on the device asked for or spread over several."""
    tokenizer: PreTrainedTokenizerBase
    """The model's tokenizer."""


def open_with_model(
    folder: Path,
    *,
    model: str | None,
    device: str,
    device_map: str | dict[str, int | str] | None = None,
    load_in: str = AS_THE_RUN,
) -> Opened:
    """Load a run and its base model: the layers on one device, and the model unless it is spread.

    Args:
        folder: the run.
        model: its base model, where that is not where the run says.
        device: such as `cpu`.
        device_map: how the model is spread over several.
        load_in: what it is quantised to: `8bit`, `4bit`, `none`, or `as-the-run`.

    Raises:
        UserError: no run there, one that cannot be written to, or no base model to be had.
    """
    run = open_run(folder)
    check_writable(folder)  # every verb leaves its result there
    host, tokenizer = base_model(run, model, device, device_map=device_map, load_in=load_in)
    for students in run.layers.values():
        for layer in students.values():
            layer.to(device)
    return Opened(run, folder, host, tokenizer)


def base_model(
    run: Run,
    name: str | None,
    device: str,
    *,
    device_map: str | dict[str, int | str] | None = None,
    load_in: str = AS_THE_RUN,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer that a run's layers are for, or those of another name."""
    how: dict[str, Any] = {
        "device": device,
        "dtype": run.recipe.dtype,
        "device_map": device_map,
        "load_in": quantised_as(load_in, run.recipe.load_in),
    }
    if name is not None:
        path = resolve_model(name)
        return load_model(path, **how), load_tokenizer(path)
    if run.base_model is None:
        raise UserError(f"run {run.folder} does not say its base model; give it with --model")
    path, revision = resolve_model(run.base_model), run.record["base_model"].get("revision")
    try:
        host = load_model(path, revision=revision, **how)
        return host, load_tokenizer(path, revision=revision)
    except UserError as error:
        raise UserError(
            f"the base model of run {run.folder} is not to be had: {error}; or say with --model "
            "where it is"
        ) from None


def chosen_layers(
    run: Run, students: tuple[str, ...] | None = None, site: str | None = None
) -> dict[str, dict[str, Layer]]:
    """The layers that a command line means, by site and name; all of them by default.

    Args:
        run: the run.
        students: names of students, patterns of names (`*-k16-*`), or names of architectures for
            all students of those.
        site: name of one site; None takes every site.

    Raises:
        UserError: no such site or student.
    """
    if site is not None and site not in run.layers:
        raise UserError(f"got site {site!r}, expected one of {', '.join(run.layers)}")
    sites = {name: of for name, of in run.layers.items() if site in (None, name)}
    wanted = students or ()
    for student in wanted:
        if not any(_meant(student, key, of[key]) for of in sites.values() for key in of):
            known = {_architecture(layer) for of in sites.values() for layer in of.values()}
            names = {key for of in sites.values() for key in of}
            raise UserError(
                f"got student {student!r}, expected a name, a pattern of names or an architecture "
                f"of the run: {', '.join(sorted(names | known))}"
            )
    found = {
        name: {
            key: layer
            for key, layer in of.items()
            if not wanted or any(_meant(student, key, layer) for student in wanted)
        }
        for name, of in sites.items()
    }
    return {name: of for name, of in found.items() if of}


def _meant(wanted: str, name: str, layer: Layer) -> bool:
    return wanted in (name, _architecture(layer)) or fnmatchcase(name, wanted)


def one_sparse_layer(
    run: Run, students: tuple[str, ...] | None = None, site: str | None = None
) -> tuple[str, str, SparseLayer]:
    """The one layer with units that a command line means: site, name and layer.

    Without a student, the run's first MxD, or else its first layer with units.

    Raises:
        UserError: no such site or student, or none that has units.
    """
    found = [
        (where, name, layer)
        for where, of in chosen_layers(run, students, site).items()
        for name, layer in of.items()
        if isinstance(layer, SparseLayer)
    ]
    if not found:
        raise UserError(
            f"got {', '.join(students or ()) or 'a run'} without units, expected a layer with "
            "experts or latents"
        )
    return min(found, key=lambda one: _architecture(one[2]) != "mxd")


def command_line() -> str:
    """The command as it was typed, for records."""
    return shlex.join(["mxd", *sys.argv[1:]])


def _architecture(layer: Layer) -> str:
    return layer.config.architecture
