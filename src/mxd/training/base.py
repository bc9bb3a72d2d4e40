"""What a run stands on, and whether what it is resumed with is still the same."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from mxd.data import read_manifest, tokenizer_fingerprint
from mxd.errors import UserError
from mxd.host import model_fingerprint
from mxd.training.checkpoints import check_changes, check_names, differences
from mxd.training.recipe import Recipe
from mxd.training.record import versions

_AGAIN = "or start a new run"


def base_of(
    recipe: Recipe, sites: dict[str, str], model: nn.Module, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """What every checkpoint says of its run; all processes have to call this alike.

    Args:
        recipe: the run's recipe.
        sites: fingerprints of the base model's MLPs by their names.
        model: the base model.
        tokenizer: its tokenizer.
    """
    return {
        "recipe": recipe.to_dict(),
        "sites": sites,
        "model": model_fingerprint(model)._asdict(),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "cache": _cache(recipe),
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }


def _cache(recipe: Recipe) -> dict[str, Any] | None:
    """What tells a cache of activations from others; None where the model gives them."""
    if recipe.activations is None:
        return None
    manifest = read_manifest(Path(recipe.activations))
    digest = hashlib.sha256()
    for shard in manifest.shards:
        digest.update(f"{asdict(shard)};".encode())
    return {
        "data_fingerprint": manifest.data_fingerprint,
        "tokens": manifest.tokens,
        "dtype": manifest.dtype,
        "shards": digest.hexdigest(),
    }


def check_base(
    content: dict[str, Any], base: dict[str, Any], accept: Sequence[str], folder: Path
) -> None:
    """Refuse to go on with another recipe, model, tokenizer or cache than a checkpoint's.

    Args:
        content: the content of checkpoint.json.
        base: what `base_of` says of the run now.
        accept: names of fields of the recipe whose change is meant.
        folder: the run's folder.

    Raises:
        UserError: something has changed that was not named, or cannot change.
    """
    _check_model(content, base, folder)
    accepted_changes(content.get("recipe"), base["recipe"], accept)
    if content.get("cache") != base["cache"]:
        there, here = content.get("cache") or {}, base["cache"] or {}
        unlike = [name for name in here if there.get(name) != here[name]]
        raise UserError(
            f"the run in {folder} was begun on another cache of activations than what is in "
            f"{base['recipe']['activations']} now (other {', '.join(unlike)}), expected the same; "
            f"bring it back, {_AGAIN}"
        )
    _check_budget(content, base["recipe"], folder)


def accepted_changes(there: Any, here: dict[str, Any], accept: Sequence[str]) -> list[str]:
    """The fields in which a recipe differs from a run's, all of them meant.

    Args:
        there: the run's recipe as plain data.
        here: the one that it is to go on with.
        accept: names of fields whose change is meant.

    Raises:
        UserError: a change that is not named, or cannot be made; or a name that no field has.
    """
    check_names(here, accept)
    found = differences(_numbered(there), _numbered(here))
    check_changes(found, accept)
    return list(found)


def _check_model(content: dict[str, Any], base: dict[str, Any], folder: Path) -> None:
    begun = f"the run in {folder} was begun on another"
    there, here = content.get("model"), base["model"]
    there = there if isinstance(there, dict) else {}
    if there.get("dtypes") != here["dtypes"]:
        raise UserError(
            f"the run in {folder} was begun on a model in {there.get('dtypes')}, and this one is "
            f"in {here['dtypes']}, expected the same; load it as before, {_AGAIN}"
        )
    if content.get("sites") != base["sites"]:
        raise UserError(
            f"{begun} model: its MLPs have other weights; give the model of before, {_AGAIN}"
        )
    if there.get("weights") != here["weights"]:
        raise UserError(
            f"{begun} model: its MLPs here are the same, and other weights of it are not; give the "
            f"model of before, {_AGAIN}"
        )
    if content.get("tokenizer") != base["tokenizer"]:
        raise UserError(f"{begun} tokenizer; give the one of before, {_AGAIN}")


def _check_budget(content: dict[str, Any], recipe: dict[str, Any], folder: Path) -> None:
    done, batch = content.get("tokens"), recipe["optimizer"]["batch_tokens"]
    if isinstance(done, int) and done > -(-recipe["tokens"] // batch) * batch:
        raise UserError(
            f"got tokens={recipe['tokens']} for the run in {folder}, which has been trained on "
            f"{done} already, expected as many or more; raise tokens, {_AGAIN}"
        )


def _numbered(recipe: Any) -> Any:
    """A recipe whose number of text shards is a number: one where none is named."""
    if not isinstance(recipe, dict):
        return recipe
    return {**recipe, "text_shards": recipe.get("text_shards") or 1}
