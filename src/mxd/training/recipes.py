"""Recipes by name, and recipes with a field changed."""

from dataclasses import replace
from typing import Any

from mxd.training._checks import one_of
from mxd.training.layer_recipe import LayerRecipe
from mxd.training.recipe import BufferRecipe, OptimizerRecipe, Recipe, TextRecipe


def paper(text: TextRecipe, **changes: Any) -> Recipe:
    """The paper's recipe (section 4 and appendix D): 480 M tokens, learning rate 1e-4, constant."""
    recipe = Recipe(
        text=text,
        layer=LayerRecipe(rule="paper"),
        optimizer=OptimizerRecipe(loss="reference", warmup_share=1.0),
        name="paper",
        **_sites(changes),
    )
    return replace(recipe, **changes)


def small(text: TextRecipe, **changes: Any) -> Recipe:
    """A recipe for hundreds to thousands of steps: larger steps, short warm-up, a smaller buffer.

    The learning rates are the best of a grid over both bundled models (docs/results.md).
    """
    optimizer = OptimizerRecipe(
        lr=SMALL_LEARNING_RATES,
        default_lr=1e-3,
        decay_share=0.2,
        clip_norm=1.0,
        batch_tokens=512,  # an MxD starts at D = 0 and needs steps more than large batches
    )
    recipe = Recipe(
        text=text,
        optimizer=optimizer,
        buffer=BufferRecipe(contexts=1024),
        tokens=2_000_000,
        name="small",
        **_sites(changes),
    )
    return replace(recipe, **changes)


SMALL_LEARNING_RATES = {
    "mxd": 5e-3,  # twice that has a lower error, by an expert that is always on
    "transcoder": 5e-3,
    "skip_transcoder": 5e-3,
    "topk_autoencoder": 5e-3,
    "dense_mlp": 1e-2,
    "mlp_transcoder": 1e-2,
}

RECIPES = {"paper": paper, "small": small}


def named_recipe(name: str, text: TextRecipe, **changes: Any) -> Recipe:
    """A recipe by name, with fields changed.

    Raises:
        UserError: unknown name, or a field out of range.
    """
    one_of("recipe", name, tuple(RECIPES))
    return RECIPES[name](text, **changes)


def _sites(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: changes[name] for name in ("layers", "sites") if name in changes}


def changed(recipe: Recipe, **parts: dict[str, Any]) -> Recipe:
    """A recipe with fields of its parts replaced; values that are None leave a field as it is.

    Args:
        recipe: the recipe.
        parts: for a part (`layer`, `optimizer`, `buffer`), its fields and their new values.

    Raises:
        UserError: a value out of range.
    """
    given = {
        part: replace(getattr(recipe, part), **{k: v for k, v in fields.items() if v is not None})
        for part, fields in parts.items()
    }
    return replace(recipe, **given)
