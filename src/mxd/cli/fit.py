"""`mxd fit`: train layers for any Hugging Face causal language model on any text."""

import sys
from itertools import product
from pathlib import Path
from typing import Any

import click

from mxd.cli._options import FIT_OPTIONS, options
from mxd.cli._paths import check_json_target, keeping, lasting, next_free, write_json
from mxd.cli._screen import console, training_progress
from mxd.cli._types import with_config
from mxd.data import ContextOptions, ExclusionOptions, TextOptions
from mxd.demo import resolve_model
from mxd.errors import UserError
from mxd.host import load_model, load_tokenizer
from mxd.layers import ARCHITECTURES, layer_class
from mxd.training import (
    Recipe,
    Run,
    StudentSpec,
    TextRecipe,
    changed,
    check_free,
    fit,
    named_recipe,
)

SHORT_RUN_STEPS = 10_000
"""Below this many steps, `--recipe auto` takes the recipe for short runs."""


@click.command("fit")
@click.argument("model")
@options(FIT_OPTIONS)
@with_config
def fit_layers(model: str, **flags: Any) -> None:
    """Train sparse layers for MLPs of MODEL, all from one pass over the text.

    MODEL is a hub id, a folder, or the name of a bundled model (small-gpt2, small-llama). Lists are
    comma-separated and multiply: two architectures and two K make four layers at each site.
    """
    recipe = recipe_from_flags(flags)
    check_json_target(flags["json_file"])
    out = flags["out"] or next_free(Path(f"mxd-fit-{Path(model).name}"))
    check_free(out, flags["overwrite"])
    resolved = resolve_model(model)
    host = load_model(
        resolved, device=recipe.device, dtype=flags["dtype"], revision=flags["revision"]
    )
    tokenizer = load_tokenizer(resolved, revision=flags["revision"])
    screen = console()
    screen.print(
        f"Training {len(recipe.students)} layers at each of "
        f"{len(recipe.layers) + len(recipe.sites)} sites of {model} on {recipe.tokens:,} tokens "
        f"(recipe {recipe.name})",
        markup=False,
    )
    with keeping(out), training_progress(screen) as progress:
        run = fit(
            host,
            tokenizer,
            recipe,
            out=out,
            overwrite=flags["overwrite"],
            base_model=model if resolved != model else lasting(model),
            command=["mxd", *sys.argv[1:]],
            on_progress=progress,
        )
    write_json(flags["json_file"], run.record)
    _summarise(screen, run)
    screen.print(f"\nRun: {out}\nNext: mxd eval {out}", markup=False)


def recipe_from_flags(flags: dict[str, Any]) -> Recipe:
    """The recipe that a command line describes.

    Raises:
        UserError: a value out of range or an unknown name.
    """
    for architecture in flags["arch"]:
        layer_class(architecture)
    if not flags["text"]:
        raise UserError(
            "got no text, expected --text with a data set's id, a file or a folder to train on"
        )
    if not flags["layers"] and not flags["site"]:
        raise UserError(
            "got no layers, expected blocks such as --layers 3 or modules such as --site NAME"
        )
    text = TextRecipe(
        source=lasting(flags["text"]),
        options=TextOptions(
            column=flags["text_column"],
            doc_column=flags["doc_column"],
            dataset_name=flags["text_name"],
            split=flags["text_split"],
        ),
        eval_source=None if flags["eval_text"] is None else lasting(flags["eval_text"]),
        holdout=flags["holdout"],
        contexts=ContextOptions(length=flags["context"], separator=flags["separator"]),
        exclusion=ExclusionOptions(
            exclude_from_training=flags["exclude_from_training"] or (),
            exclude_from_evaluation=flags["exclude_from_evaluation"] or (),
        ),
        on_exhausted=flags["on_exhausted"],
    )
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
        **{name: flags[name] for name in ("precision", "device", "dtype", "log_every")},
        trackers=flags["trackers"] or (),
        **({} if flags["tokens"] is None else {"tokens": flags["tokens"]}),
    )
    single_rate = flags["lr"][0] if flags["lr"] and not several_rates else None
    return _with_flags(recipe, flags, single_rate)


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
    )
    optimizer = ("loss", "batch_tokens", "clip_norm", "auxk_coefficient", "l1_coefficient")
    buffer = {
        "contexts": flags["buffer_contexts"],
        "harvest_contexts": flags["harvest_contexts"],
        "dtype": flags["buffer_dtype"],
        "device": flags["buffer_device"],
    }
    rates: dict[str, Any] = {}
    if single_rate is not None:
        rates = {"lr": dict.fromkeys(ARCHITECTURES, single_rate), "default_lr": single_rate}
    return changed(
        recipe,
        layer={name: flags[name] for name in (*layer, "shared_experts")},
        optimizer={name: flags[name] for name in optimizer} | rates,
        buffer=buffer,
    )


def _summarise(screen: Any, run: Run) -> None:
    for site, students in run.layers.items():
        screen.print(f"\n{site}", markup=False)
        for name, layer in students.items():
            training = layer.provenance.training
            last = training["nmse_last_tenth"]
            falling = ", still falling" if training["still_falling"] else ""
            found = (
                "diverged; lower its learning rate"
                if last is None
                else f"NMSE {last:.4f} over the last tenth of the run{falling}"
            )
            screen.print(f"  {name}: {found}", markup=False)
