"""Training from a cache of activations: what its manifest says in the place of flags."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mxd.cli._paths import lasting
from mxd.data import ExclusionOptions
from mxd.errors import UserError
from mxd.training import TextRecipe, cached_text, finished_manifest


def with_activations(flags: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """The flags, with what a cache knows for those that were not given.

    Args:
        flags: those of a training verb.
        given: names of those that were typed.

    Raises:
        UserError: no finished cache, flags that say something else than it or have no use beside
            it, or flags about a cache without one.
    """
    if flags["activations"] is None:
        for name in ("activations_order", "skip_checksums"):
            if name in given:
                flag = name.replace("_", "-")
                raise UserError(f"got --{flag} without --activations, expected both; give a cache")
        return dict(flags)
    if flags["compile_model"]:
        raise UserError(
            "got --compile-model beside --activations, which do not run the model, expected one of "
            "them; leave --compile-model out"
        )
    folder = Path(lasting(str(flags["activations"])))
    manifest = finished_manifest(folder)
    text = cached_text(folder, manifest)
    said = {
        "text": text.source,
        "eval_text": text.eval_source,
        "holdout": text.holdout,
        "text_column": text.options.column,
        "doc_column": text.options.doc_column,
        "text_name": text.options.dataset_name,
        "text_split": text.options.split,
        "skip_damaged": text.options.skip_damaged,
        "context": text.contexts.length,
        "separator": text.contexts.separator,
        "harvest_contexts": manifest.contexts_per_pass,
        "dtype": manifest.model_dtype,
    }
    unlike = [
        f"--{name.replace('_', '-')} {_meant(name, flags[name])}, where it has {value}"
        for name, value in said.items()
        if name in given and _meant(name, flags[name]) != value
    ]
    if unlike:
        raise UserError(
            f"got flags that contradict the cache {folder} ({'; '.join(unlike)}), expected what it "
            "was harvested with; leave them out, or harvest again with them"
        )
    return {**flags, **said, "activations": folder}


def cache_text(flags: Mapping[str, Any]) -> TextRecipe | None:
    """The text of the cache that the flags name; None without one."""
    folder = flags["activations"]
    if folder is None:
        return None
    return cached_text(folder, finished_manifest(folder), **own_of_training(flags))


def own_of_training(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What a training chooses for itself, whatever its text is read from."""
    return {
        "exclusion": ExclusionOptions(
            exclude_from_training=flags["exclude_from_training"] or (),
            exclude_from_evaluation=flags["exclude_from_evaluation"] or (),
        ),
        "on_exhausted": flags["on_exhausted"],
    }


def _meant(name: str, value: Any) -> Any:
    return lasting(value) if name in ("text", "eval_text") and value is not None else value
