"""From the flags of `mxd edit` to edits, and to the folder that the edited layer goes to."""

import logging
from pathlib import Path
from typing import Any

from mxd._json_files import json_object_or_none
from mxd.cli._run import base_model
from mxd.data import SpreadContexts, pack
from mxd.errors import UserError
from mxd.evaluation import find_firing
from mxd.layers import Edit, SparseLayer
from mxd.training import Run, check_free, evaluation_documents

CHECK_TOKENS = 20_000
"""Held-out tokens on which it is seen how often the edited units fire."""
_MAX_JSON_BYTES = 4 << 20
_logger = logging.getLogger(__name__)


def is_given(value: Any) -> bool:
    """Whether a flag without a default was given; 0 is a value like any other."""
    return value is not None and value is not False and value != ()


def edits_of(flags: dict[str, Any]) -> list[Edit]:
    """The edits that a command line means, those of --expert first.

    Raises:
        UserError: none, or flags that contradict each other.
    """
    kinds = [n for n in ("scale", "remove", "replace_by") if is_given(flags[n])]
    written = [Edit.parse(text) for text in flags["edit"] or ()]
    if not flags["expert"]:
        stray = [n for n in (*kinds, "where", "unless") if is_given(flags[n])]
        if stray:
            raise UserError(
                f"got --{stray[0].replace('_', '-')} without --expert, expected the experts that "
                "it is for; add --expert, or write it out with --edit"
            )
        if not written:
            raise UserError("got nothing to edit, expected --expert with --scale 0, or --edit")
        return written
    if len(kinds) != 1:
        raise UserError(
            f"got --expert with {len(kinds)} of --scale, --remove and --replace-by, expected "
            "exactly one; write several edits out with --edit"
        )
    names = ("scale", "remove", "replace_by", "where", "unless")
    same = {name: flags[name] for name in names}
    return [*(Edit(unit, **same) for unit in flags["expert"]), *written]


def check_layer_target(out: Path, overwrite: bool, run: Path) -> None:
    """Make sure that a layer may be written here, before any work is done.

    Raises:
        UserError: something else is there, or the run's own layers are.
    """
    own = (run / "layers").resolve()
    if own == out.resolve() or own in out.resolve().parents:
        raise UserError(
            f"got --out {out}, where the run keeps the layers it trained, expected another folder"
        )
    if not overwrite or out.is_symlink() or not out.is_dir() or not any(out.iterdir()):
        check_free(out, overwrite=False)
        return
    if not _holds_layer(out):
        raise UserError(
            f"{out} is not the folder of a layer, so it is not overwritten; choose another"
        )


def _holds_layer(folder: Path) -> bool:
    config = json_object_or_none(folder / "config.json", _MAX_JSON_BYTES)
    return config is not None and config.get("format") == "mxd-layer"


def firing_frequencies(
    run: Run, site: str, layer: SparseLayer, units: list[int], flags: dict[str, Any]
) -> dict[int, float] | None:
    """On what share of held-out tokens each unit fires; None where that cannot be seen.

    Without --model, a base model or text that is not to be had is no reason not to edit.

    Raises:
        UserError: the model that was given cannot be loaded.
    """
    try:
        where = {name: flags[name] for name in ("device_map", "load_in")}
        host, tokenizer = base_model(run, flags["model"], flags["device"], **where)
        documents = evaluation_documents(run.recipe.text, run.recipe.seed)
        contexts = SpreadContexts(
            pack(documents, tokenizer, run.recipe.text.contexts), CHECK_TOKENS
        )
        firing = find_firing(host, site, layer.to(flags["device"]), contexts, tokens=CHECK_TOKENS)
    except UserError as error:
        if flags["model"] is not None:
            raise
        _logger.warning("how often the edited experts fire was not checked: %s", error)
        return None
    tokens = firing.tokens.numel()
    return {unit: int(firing.counts[unit]) / tokens for unit in units}
