"""Keep a model's activations on disk, for any number of trainings."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from mxd.data import (
    MAX_PASS_TOKENS,
    CachedSite,
    Document,
    Manifest,
    OnHarvest,
    check_target,
    fill_cache,
    pack,
    passes_per_shard,
    plan,
    tokenizer_fingerprint,
)
from mxd.errors import UserError
from mxd.host import (
    QUANTISED,
    MLPSite,
    capture,
    check_device,
    find_site,
    input_device,
    site_fingerprint,
)
from mxd.training._checks import at_least, at_most, one_of
from mxd.training.recipe import TextRecipe
from mxd.training.record import versions
from mxd.training.text import split_seed, training_documents

CACHE_DTYPES = ("bfloat16", "float32")


@dataclass(frozen=True, kw_only=True)
class HarvestRecipe:
    """What is kept of which text."""

    text: TextRecipe
    """Text to harvest; its held-out documents are left out. `on_exhausted` and `exclusion` play no
    part: a cache holds every token of one epoch at most, and trainings choose."""
    layers: tuple[int, ...] = ()
    """Indices of the blocks whose MLP is looked at."""
    sites: tuple[str, ...] = ()
    """Modules to look at by name, in addition to `layers`."""
    tokens: int = 480_000_000
    """Tokens to keep, rounded up to whole passes of the model; fewer where the text ends."""
    dtype: str = "bfloat16"
    """Type that activations are stored in: `bfloat16`, or `float32` for twice the size."""
    max_size: int | None = None
    """Bytes that the shards may take; the harvest ends cleanly before. None for no bound."""
    harvest_contexts: int = 32
    """Contexts in a pass of the language model."""
    prefetch: int | None = None
    """Passes made ahead by a background thread while shards are written; None makes none ahead on
    the CPU, and 2 on an accelerator."""
    seed: int = 42
    """Seed of the choice of documents that are held out, where the text has none of its own."""
    device: str = "cpu"
    """Where the language model runs."""
    model_dtype: str = "float32"
    """Type that the language model is loaded in, for the record; whoever loads it sees to it."""
    load_in: str | None = None
    """What its linear layers are quantised to, `8bit` or `4bit`, for the record likewise; None
    leaves them as they are."""
    shard_bytes: int | None = None
    """Bytes that a file is meant to hold; None for 256 MiB."""

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, CACHE_DTYPES)
        if self.load_in is not None:
            one_of("load_in", self.load_in, QUANTISED)
        for name in ("tokens", "harvest_contexts"):
            at_least(name, getattr(self, name), 1)
        most = MAX_PASS_TOKENS // self.text.contexts.length
        at_most("harvest_contexts", self.harvest_contexts, most)
        for name, least in (("max_size", 1), ("shard_bytes", 1), ("prefetch", 0)):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), least)
        if not self.layers and not self.sites:
            raise UserError("got no layers and no sites, expected at least one MLP to look at")


def harvest(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    recipe: HarvestRecipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    documents: Iterable[Document] | None = None,
    base_model: str | None = None,
    command: Sequence[str] | None = None,
    on_progress: OnHarvest | None = None,
) -> Manifest:
    """Run a model over text and keep what enters and leaves its MLPs in a folder.

    Called again after an interruption, it goes on after the last finished shard, and the result is
    the same, byte for byte. A finished cache is left as it is.

    Args:
        model: a frozen causal language model from transformers, on the recipe's device or spread
            over several.
        tokenizer: its tokenizer.
        recipe: what to keep of which text.
        out: folder of the cache.
        overwrite: start anew, whatever cache is there.
        documents: documents to harvest instead of the recipe's text; it is up to the caller that
            evaluation documents are not among them.
        base_model: name to record for the model; None takes the one transformers knows.
        command: the command line to record.
        on_progress: told at the beginning and after every pass of the model; never for a cache
            that is finished already.

    Returns:
        The manifest of the complete cache.

    Raises:
        UserError: something about model, text, recipe, folder or disk that the caller can mend.
            Finished shards stay.
    """
    out = Path(out)
    check_target(out, None, overwrite=overwrite)
    model.eval()
    sites = harvested_sites(model, recipe)
    asked = asked_manifest(model, tokenizer, recipe, sites, base_model=base_model, command=command)
    check_target(out, asked, overwrite=overwrite)
    if documents is None:
        documents = training_documents(recipe.text, recipe.seed)
    device, place = check_device(recipe.device), input_device(model)
    return fill_cache(
        out,
        asked,
        lambda ids: capture(model, sites, ids.to(place)),
        pack(
            documents,
            tokenizer,
            recipe.text.contexts,
            contexts_per_batch=recipe.harvest_contexts,
            number_documents=False,
        ),
        overwrite=overwrite,
        ahead=passes_ahead(recipe.prefetch, device),
        device=device,
        on_progress=on_progress,
    )


def harvested_sites(model: nn.Module, recipe: HarvestRecipe) -> list[MLPSite]:
    """The sites that a recipe names, each once.

    Raises:
        UserError: a layer out of range, a block without an MLP, or no such module.
    """
    wanted: list[int | str] = [*recipe.layers, *recipe.sites]
    found = [find_site(model, which) for which in wanted]
    return list({site.name: site for site in found}.values())


def asked_manifest(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    recipe: HarvestRecipe,
    sites: Sequence[MLPSite],
    *,
    base_model: str | None = None,
    command: Sequence[str] | None = None,
) -> Manifest:
    """The manifest of a harvest that has not begun.

    Raises:
        UserError: the bound on the size leaves no room for anything.
    """
    config = getattr(model, "config", None)
    text = asdict(recipe.text)
    contexts = text.pop("contexts")
    for name in ("exclusion", "on_exhausted"):
        del text[name]
    if not recipe.text.options.skip_damaged:  # which caches did not speak of before it was a choice
        del text["options"]["skip_damaged"]
    kept = tuple(
        CachedSite(name=s.name, d_in=s.d_in, d_out=s.d_out, fingerprint=site_fingerprint(s))
        for s in sites
    )
    size = {} if recipe.shard_bytes is None else {"shard_bytes": recipe.shard_bytes}
    pass_tokens = recipe.harvest_contexts * recipe.text.contexts.length
    manifest = Manifest(
        base_model={
            "name": base_model or getattr(config, "_name_or_path", None),
            "revision": getattr(config, "_commit_hash", None),
        }
        | ({} if recipe.load_in is None else {"load_in": recipe.load_in}),
        model_dtype=recipe.model_dtype,
        device=_name_of(check_device(recipe.device)),
        sites=kept,
        dtype=recipe.dtype,
        contexts=contexts,
        contexts_per_pass=recipe.harvest_contexts,
        text=text | {"split_seed": split_seed(recipe.text, recipe.seed)},
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        tokens_wanted=recipe.tokens,
        max_size=recipe.max_size,
        passes_per_shard=passes_per_shard(kept, recipe.dtype, pass_tokens, **size),
        versions=versions(),
        command=tuple(command or ()),
    )
    plan(manifest)  # refuses a bound that leaves no room
    return manifest


def _name_of(device: torch.device) -> str:
    """What the model runs on, as far as it decides how sums are rounded."""
    if device.type != "cuda":
        return device.type
    return f"{device.type}: {torch.cuda.get_device_name(device)}"


def passes_ahead(wanted: int | None, device: torch.device) -> int:
    """Passes to make ahead: what was asked for, or none on the CPU and 2 elsewhere."""
    if wanted is not None:
        return wanted
    return 0 if device.type == "cpu" else 2
