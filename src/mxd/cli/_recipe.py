"""From the flags of a training verb to a recipe."""

from itertools import product
from typing import Any

from mxd.cli._activations import cache_text, own_of_training
from mxd.cli._paths import lasting
from mxd.data import ContextOptions, TextOptions
from mxd.errors import UserError
from mxd.layers import ARCHITECTURES, layer_class
from mxd.training import Recipe, StudentSpec, TextRecipe, changed, named_recipe

SHORT_RUN_STEPS = 10_000
"""Below a budget of this many steps, of the paper's size or that of --batch-tokens, `--recipe auto`
takes the recipe for short runs."""
_OF_THE_RUN = (
    "precision", "device", "dtype", "load_in", "log_every", "track_experts", "compile_model",
)  # fmt: skip


def recipe_from_flags(flags: dict[str, Any]) -> Recipe:
    """The recipe that a command line describes.

    Raises:
        UserError: a value out of range or an unknown name.
    """
    for architecture in flags["arch"]:
        layer_class(architecture)
    if not flags["layers"] and not flags["site"]:
        raise UserError(
            "got no layers, expected blocks such as --layers 3 or modules such as --site NAME"
        )
    text = cache_text(flags) or text_from_flags(flags)
    grid = product(flags["arch"], flags["k"], flags["seed"], flags["lr"] or (None,))
    several_rates = len(flags["lr"] or ()) > 1
    students = tuple(
        StudentSpec(architecture=a, k=k, seed=s, lr=lr if several_rates else None)
        for a, k, s, lr in grid
    )
    seed = flags["seed"][0]
    recipe = named_recipe(
        _recipe_name(flags),
        text,
        layers=flags["layers"] or (),
        sites=flags["site"] or (),
        students=students,
        seed=seed,
        **{name: flags[name] for name in _OF_THE_RUN},
        trackers=flags["trackers"] or (),
        activations=None if flags["activations"] is None else str(flags["activations"]),
        activations_order=flags["activations_order"],
        verify_activations=not flags["skip_checksums"],
        text_shards=flags.get("text_shards"),
        **({} if flags["tokens"] is None else {"tokens": flags["tokens"]}),
    )
    single_rate = flags["lr"][0] if flags["lr"] and not several_rates else None
    return _with_flags(recipe, flags, single_rate)


def text_from_flags(flags: dict[str, Any]) -> TextRecipe:
    """The text that a command line describes.

    Raises:
        UserError: none is given, or a value is out of range.
    """
    if not flags["text"]:
        raise UserError(
            "got no text, expected --text with a data set's id, a file or a folder to train on"
        )
    return TextRecipe(
        source=lasting(flags["text"]),
        options=TextOptions(
            column=flags["text_column"],
            doc_column=flags["doc_column"],
            dataset_name=flags["text_name"],
            split=flags["text_split"],
            skip_damaged=flags["skip_damaged"],
        ),
        eval_source=None if flags["eval_text"] is None else lasting(flags["eval_text"]),
        holdout=flags["holdout"],
        contexts=ContextOptions(length=flags["context"], separator=flags["separator"]),
        **own_of_training(flags),
    )


def _recipe_name(flags: dict[str, Any]) -> str:
    if flags["recipe"] != "auto":
        return str(flags["recipe"])
    batch = flags["batch_tokens"] or 4096
    tokens = flags["tokens"]
    return "small" if tokens is not None and tokens < SHORT_RUN_STEPS * batch else "paper"


def _with_flags(recipe: Recipe, flags: dict[str, Any], single_rate: float | None) -> Recipe:
    """Put flags that were given over what the named recipe says."""
    layer = (
        "expansion",
        "rule",
        "width",
        "d_hidden",
        "activation",
        "sparsity",
        "random_k",
        "unit_norm",
        "shared_experts",
        "start",
    )
    optimizer = (
        "loss",
        "batch_tokens",
        "micro_tokens",
        "clip_norm",
        "auxk_coefficient",
        "l1_coefficient",
    )
    buffer = {
        "contexts": flags["buffer_contexts"],
        "harvest_contexts": flags["harvest_contexts"],
        "dtype": flags["buffer_dtype"],
        "device": flags["buffer_device"],
        "prefetch": flags["prefetch"],
    }
    rates: dict[str, Any] = {}
    if single_rate is not None:
        rates = {"lr": dict.fromkeys(ARCHITECTURES, single_rate), "default_lr": single_rate}
    return changed(
        recipe,
        layer={name: flags[name] for name in layer},
        optimizer={name: flags[name] for name in optimizer} | rates,
        buffer=buffer,
    )
