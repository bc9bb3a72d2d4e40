"""A layer's folder: config.json, model.safetensors, README.md. Everything read is checked first."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn

from mxd._durable_files import cannot_write, replace_durably, replace_text
from mxd._json_files import read_json_object
from mxd._version import __version__
from mxd.errors import UserError
from mxd.layers import card
from mxd.layers._provenance import Provenance
from mxd.layers._remote import local_folder
from mxd.layers._tensors import open_tensors, read_means, read_tensors
from mxd.layers.base import Layer
from mxd.layers.config import LayerConfig
from mxd.layers.edits import edits_from_json
from mxd.layers.registry import layer_class

FORMAT, FORMAT_VERSION = "mxd-layer", 1
CONFIG, WEIGHTS, STATISTICS, CARD = (
    "config.json",
    "model.safetensors",
    "statistics.safetensors",
    "README.md",
)
_MAX_JSON_BYTES = 4 << 20
_MAX_WIDTH = 1 << 31
_PICKLES = ("pytorch_model.bin", "model.pt", "model.pth", "model.pkl")

L = TypeVar("L", bound=Layer)


def write(layer: Layer, folder: Path) -> None:
    """Write the layer's folder; each file is replaced as a whole or not at all.

    Raises:
        CannotWriteError: the disk is full, or the folder cannot be written to.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in layer.state_dict().items()}
    replace_durably(folder / WEIGHTS, lambda path: save_file(tensors, path, {"format": "pt"}))
    if layer.statistics:
        means = {name: t.detach().cpu().contiguous() for name, t in layer.statistics.items()}
        replace_durably(folder / STATISTICS, lambda path: save_file(means, path, {"format": "pt"}))
    else:  # the means of a layer that the folder held before are not this one's
        _delete(folder / STATISTICS)
    write_description(layer, folder)


def write_description(layer: Layer, folder: Path) -> None:
    """Write config.json and the model card alone, as when new figures were measured.

    Raises:
        CannotWriteError: the disk is full, or the folder cannot be written to.
    """
    replace_text(folder / CONFIG, json.dumps(describe(layer), indent=2) + "\n")
    replace_text(folder / CARD, card.render(layer))


def describe(layer: Layer) -> dict[str, Any]:
    """The content of config.json."""
    provenance = layer.provenance
    origin = {f.name: getattr(provenance, f.name) for f in fields(provenance)}
    if not provenance.edit_history:  # layers as they were trained do not speak of edits
        del origin["edit_history"]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": layer.config.architecture,
        **layer.config.to_dict(),
        **origin,
        "mxd_version": __version__,
    }


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def load(source: str | Path, cls: type[L], **hub: Any) -> L:
    """Read a layer from a folder or the hub and make sure that it is a `cls`."""
    folder = local_folder(source, (CONFIG, WEIGHTS, STATISTICS), **hub)
    config, provenance = read_config(folder)
    found = layer_class(config.architecture)
    if not issubclass(found, cls):
        raise UserError(
            f"{folder} holds a {config.architecture} layer, expected a {cls.__name__}; "
            "load any architecture with mxd.load"
        )
    layer = _read_weights(found, config, folder)
    layer.provenance = provenance
    layer.statistics = read_means(folder / STATISTICS, config.d_out)
    return layer.eval()


def read_config(folder: Path) -> tuple[LayerConfig, Provenance]:
    """Read and check a layer's config.json.

    Raises:
        UserError: missing, no JSON, another format or version, unknown architecture, bad values.
    """
    raw = _read_json(folder / CONFIG)
    if raw.get("format") != FORMAT:
        raise UserError(
            f"{folder / CONFIG} has format {raw.get('format')!r}, expected {FORMAT!r}; give the "
            "folder of a layer that mxd saved"
        )
    if raw.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder / CONFIG} has format version {raw.get('format_version')!r}, expected "
            f"{FORMAT_VERSION}; update mxd, or save the layer again with this version"
        )
    architecture = raw.get("architecture")
    if not isinstance(architecture, str):
        raise UserError(f"{folder / CONFIG} names no architecture, expected the name of one")
    try:
        cls = layer_class(architecture).config_class
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from None
    known = {f.name: f for f in fields(cls)}
    values = {name: raw[name] for name in known if name in raw}
    try:
        if "edits" in values:
            values["edits"] = edits_from_json(values["edits"])
        for name, value in values.items():
            if name != "edits":
                _check_value(name, value, known[name].type)
        config = cls(**values)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{folder / CONFIG} does not describe a {architecture} layer: {error}"
        ) from None
    if config.architecture != architecture:
        raise UserError(
            f"{folder / CONFIG} says {architecture!r}, its fields describe {config.architecture!r}"
        )
    return config, _read_provenance(raw, folder / CONFIG)


def _check_value(name: str, value: Any, kind: Any) -> None:
    if type(value) is not kind:
        raise UserError(f"got {name}={value!r}, expected {getattr(kind, '__name__', kind)}")
    if kind is int and abs(value) >= _MAX_WIDTH:
        raise UserError(f"got {name}={value}, expected less than {_MAX_WIDTH}")


def _read_provenance(raw: dict[str, Any], path: Path) -> Provenance:
    values = {f.name: raw[f.name] for f in fields(Provenance) if raw.get(f.name) is not None}
    ids = values.get("excluded_token_ids", ())
    if not isinstance(ids, (list, tuple)) or not all(_is_token_id(i) for i in ids):
        raise UserError(f"{path} has excluded_token_ids {ids!r}, expected a list of token ids")
    values["excluded_token_ids"] = tuple(ids)
    history = values.get("edit_history", ())
    if not isinstance(history, (list, tuple)) or not all(isinstance(e, str) for e in history):
        raise UserError(f"{path} has edit_history {history!r}, expected a list of texts")
    values["edit_history"] = tuple(history)
    for name, kind in (
        ("training", dict),
        ("evaluation", dict),
        ("base_model", str),
        ("base_revision", str),
        ("base_fingerprint", str),
        ("site", str),
        ("student", str),
        ("seed", int),
    ):
        if name in values and type(values[name]) is not kind:
            raise UserError(f"{path} has {name} {values[name]!r}, expected {kind.__name__}")
    return Provenance(**values)


def _is_token_id(value: Any) -> bool:
    return type(value) is int and -_MAX_WIDTH <= value < _MAX_WIDTH


def _read_json(path: Path) -> dict[str, Any]:
    return read_json_object(
        path,
        missing=f"{path.parent} is no layer folder: it has no {path.name}",
        remedy="fetch or save the layer again",
        most_bytes=_MAX_JSON_BYTES,
        finite=False,  # a figure of a training that went astray is no number
    )


def _read_weights(cls: type[L], config: LayerConfig, folder: Path) -> L:
    path = folder / WEIGHTS
    if not path.exists():
        pickles = [name for name in _PICKLES if (folder / name).exists()]
        hint = f"; {pickles[0]} is a pickle, which is never read" if pickles else ""
        raise UserError(f"{folder} has no {WEIGHTS}{hint}; save the layer as safetensors")
    file = open_tensors(path)
    try:
        with torch.device("meta"):  # no memory is taken before the file proves to hold its claims
            layer = cls(config)
    except (UserError, RuntimeError) as error:  # torch's own: sizes that overflow
        raise UserError(
            f"{folder / CONFIG} describes no {cls.__name__} that can be built: {error}"
        ) from None
    wanted = {name: tuple(t.shape) for name, t in layer.state_dict().items()}
    tensors = read_tensors(file, wanted)
    parameters = {name: nn.Parameter(t) for name, t in tensors.items()}
    layer.load_state_dict(parameters, assign=True)
    return layer
