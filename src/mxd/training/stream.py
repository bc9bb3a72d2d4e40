"""Where a training's activations come from: the model, or a cache that it was harvested into."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mxd.data import (
    ActivationStream,
    CachedStream,
    Document,
    DocumentSource,
    Harvest,
    Manifest,
    ShardedStream,
    dealt_documents,
    pack,
    part_of,
    read_manifest,
    shard_seed,
    tokenizer_fingerprint,
)
from mxd.errors import UserError
from mxd.host import (
    MLPSite,
    capture,
    has_several_processes,
    input_device,
    site_fingerprint,
)
from mxd.training.harvest import passes_ahead
from mxd.training.recipe import Recipe, TextRecipe
from mxd.training.run import from_dict
from mxd.training.team import Team
from mxd.training.text import training_documents
from mxd.training.turns import TurnTakingStream


def open_shards(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    sites: list[MLPSite],
    excluded: tuple[int, ...],
    documents: Iterable[Document] | None,
    own: Sequence[int],
    team: Team | None = None,
) -> ShardedStream:
    """The stream that a recipe describes, those shards of it that this process reads.

    Args:
        model: the frozen model.
        tokenizer: its tokenizer.
        recipe: text or cache, buffer, budget and seed.
        sites: where layers are trained.
        excluded: ids of tokens that are not trained on.
        documents: documents instead of the recipe's text; None takes that.
        own: the numbers of the shards.
        team: the processes of the run, who share the passes of a model that lies in parts on them.

    Raises:
        UserError: the text cannot be read, or the cache is damaged, unfinished, of another model,
            or of other text.
    """
    shards = recipe.text_shards or 1
    if recipe.activations is not None:
        if documents is not None:
            raise UserError("got documents beside a cache of activations, expected one of them")
        if shards > 1:
            raise UserError(
                f"got {shards} text shards with a cache of activations, expected 1: a cache is "
                "read by one process, which hands its rows on; leave text_shards out"
            )
        folder = Path(recipe.activations)
        return ShardedStream(
            {n: _from_cache(folder, tokenizer, recipe, sites, excluded, model) for n in own}
        )
    if documents is None:
        documents = training_documents(recipe.text, recipe.seed)
    elif shards > 1 and not isinstance(documents, DocumentSource):
        documents = list(documents)  # each shard goes through them
    harvest = _one_at_a_time(model, sites)
    turns, ahead = None, passes_ahead(recipe.buffer.prefetch, torch.device(recipe.device))
    if team is not None and has_several_processes(model):
        turns, ahead = team.turns(harvest), 0
        harvest = turns.lead
    streams = {
        n: _from_text(harvest, tokenizer, recipe, excluded, _dealt(documents, n, shards), n, ahead)
        for n in own
    }
    return ShardedStream(streams) if turns is None else TurnTakingStream(streams, turns)


def _one_at_a_time(model: nn.Module, sites: list[MLPSite]) -> Harvest:
    """The model's passes; shards that run ahead, each in a thread of its own, take turns."""
    turn, device = Lock(), input_device(model)

    def harvest(ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        with turn:
            return capture(model, sites, ids.to(device, non_blocking=True))

    return harvest


def text_shards(recipe: Recipe, processes: int, before: Mapping[str, Any] | None) -> int:
    """How many shards a run has: as the run that goes on has it, as asked for, or one a process.

    Args:
        recipe: what is asked for.
        processes: how many there are.
        before: the recipe of the run that is gone on with, as plain data; None where none is.
    """
    if recipe.text_shards is not None:
        return recipe.text_shards
    if before is not None:
        return int(before.get("text_shards") or 1)
    return 1 if recipe.activations is not None else processes


def _dealt(documents: Iterable[Document], shard: int, shards: int) -> Iterable[Document]:
    return documents if shards == 1 else dealt_documents(documents, shard, shards)


def _from_text(
    harvest: Harvest,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    excluded: tuple[int, ...],
    documents: Iterable[Document],
    shard: int,
    ahead: int,
) -> ActivationStream:
    several = (recipe.text_shards or 1) > 1
    contexts = pack(
        documents,
        tokenizer,
        recipe.text.contexts,
        contexts_per_batch=recipe.buffer.harvest_contexts,
        number_documents=False,
        may_be_empty=several,
    )
    return ActivationStream(
        harvest=harvest,
        contexts=contexts,
        harvest_contexts=recipe.buffer.harvest_contexts,
        harvest_device=recipe.device,
        prefetch=ahead,
        may_be_empty=several,
        **_common(recipe, excluded, shard),
    )


def _common(recipe: Recipe, excluded: tuple[int, ...], shard: int = 0) -> dict[str, Any]:
    """What both kinds of stream take: a shard's part of what the recipe says."""
    buffer, batch_tokens = recipe.buffer, recipe.optimizer.batch_tokens
    shards = recipe.text_shards or 1
    own_batch = part_of(batch_tokens, shard, shards)
    on_exhausted: Literal["repeat", "stop"] = (
        "repeat" if recipe.text.on_exhausted == "repeat" else "stop"
    )
    return {
        "batch_tokens": own_batch,
        "buffer_tokens": max(buffer.contexts * recipe.text.contexts.length // shards, own_batch),
        "refill": buffer.refill,
        "device": buffer.device,
        "dtype": getattr(torch, buffer.dtype),
        "excluded_token_ids": excluded,
        "on_exhausted": on_exhausted,
        "seed": shard_seed(recipe.seed, shard),
        "max_tokens": -(-recipe.tokens // batch_tokens) * own_batch,
    }


def _from_cache(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    sites: list[MLPSite],
    excluded: tuple[int, ...],
    model: nn.Module,
) -> CachedStream:
    manifest = finished_manifest(folder)
    _check_text(folder, manifest, recipe)
    _check_model(folder, manifest, model, tokenizer, sites)
    return CachedStream(
        folder=folder,
        manifest=manifest,
        sites=[site.name for site in sites],
        shuffle=recipe.activations_order == "shuffled",
        verify=recipe.verify_activations,
        prefetch=passes_ahead(recipe.buffer.prefetch, torch.device(recipe.device)),
        pinned=torch.device(recipe.device).type == "cuda",
        **_common(recipe, excluded),
    )


def finished_manifest(folder: Path) -> Manifest:
    """The manifest of a cache that can be trained on.

    Raises:
        UserError: no cache, a damaged one, or one that is not finished.
    """
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise UserError(
            f"the cache {folder} is not finished: it holds {manifest.tokens:,} of "
            f"{manifest.tokens_wanted:,} tokens, expected a finished one; give the same "
            "`mxd harvest` again to go on"
        )
    if not manifest.tokens:
        raise UserError(f"the cache {folder} is empty, expected activations; harvest again")
    return manifest


def cached_text(folder: Path, manifest: Manifest, **own: Any) -> TextRecipe:
    """The text of a cache as a recipe has it.

    Args:
        folder: the cache's folder.
        manifest: its manifest.
        own: what a training chooses for itself: `exclusion`, `on_exhausted`.

    Raises:
        UserError: the manifest describes no text.
    """
    said = {**manifest.text, "contexts": manifest.contexts}
    text = from_dict(TextRecipe, said, folder / "manifest.json")
    return TextRecipe(**{**vars(text), **own})


def cache_record(recipe: Recipe) -> dict[str, Any]:
    """What a run's record says of the cache that it was trained from; nothing without one."""
    if recipe.activations is None:
        return {}
    manifest = read_manifest(Path(recipe.activations))
    return {
        "activations": {
            "folder": recipe.activations,
            "data_fingerprint": manifest.data_fingerprint,
            "tokens": manifest.tokens,
            "dtype": manifest.dtype,
            "ended_because": manifest.ended_because,
        }
    }


def _check_text(folder: Path, manifest: Manifest, recipe: Recipe) -> None:
    """A recipe's text must be the cache's, so that what was held out stays so in evaluation."""
    there = asdict(cached_text(folder, manifest))
    here = asdict(recipe.text)
    unlike = [
        f"{name}: {there[name]!r} there, {here[name]!r} here"
        for name in there
        if name not in ("exclusion", "on_exhausted") and there[name] != here[name]
    ]
    if unlike:
        raise UserError(
            f"got a recipe for other text than that of the cache {folder} ({'; '.join(unlike)}), "
            "expected the cache's; take it from there with mxd.training.cached_text"
        )


def _check_model(
    folder: Path,
    manifest: Manifest,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sites: Sequence[MLPSite],
) -> None:
    known = {site.name: site for site in manifest.sites}
    for site in sites:
        cached = known.get(site.name)
        if cached is not None and cached.fingerprint != site_fingerprint(site):
            raise UserError(
                f"the cache {folder} was harvested from {manifest.base_model.get('name')} with "
                f"weights {cached.fingerprint} at {site.name}, expected this model's "
                f"{site_fingerprint(site)}; give the model that it was harvested from"
            )
    config = getattr(model, "config", None)
    revision, there = getattr(config, "_commit_hash", None), manifest.base_model.get("revision")
    if None not in (revision, there) and revision != there:
        raise UserError(
            f"the cache {folder} was harvested from revision {there}, expected this model's "
            f"{revision}; give --revision {there}"
        )
    if tokenizer_fingerprint(tokenizer) != manifest.tokenizer_fingerprint:
        raise UserError(
            f"the cache {folder} was harvested with another tokenizer, expected this model's; give "
            "the model that it was harvested from"
        )
