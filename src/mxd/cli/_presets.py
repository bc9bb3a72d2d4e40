"""What `--preset` puts in the place of flags that were not given, and what reports say of it."""

from collections.abc import Mapping
from typing import Any

from mxd.errors import UserError
from mxd.training import PAPER_ARCHITECTURES, PAPER_KS, Preset, Recipe, TextRecipe

_PART_OF_A_PRESET = (
    "text", "text_name", "text_split", "context", "separator", "exclude_from_training",
    "expansion", "rule", "width", "d_hidden", "activation", "sparsity", "random_k", "unit_norm",
    "shared_experts", "start", "recipe", "lr", "loss", "batch_tokens", "clip_norm",
    "l1_coefficient", "auxk_coefficient", "buffer_contexts", "buffer_dtype",
)  # fmt: skip
"""Flags that make a run another than the paper's."""


def with_preset(preset: Preset, flags: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """The flags, with the preset's values for those that were not given.

    Raises:
        UserError: another MLP than the preset's is asked for.
    """
    for name in ("layers", "site"):
        if name in given:
            raise UserError(
                f"got --{name} beside --preset {preset.name}, which is about layer {preset.layer}, "
                "expected one of them; leave one out"
            )
    own = {
        "text": preset.text,
        "layers": (preset.layer,),
        "arch": PAPER_ARCHITECTURES,
        "k": PAPER_KS,
        "recipe": "paper",
        "tokens": preset.tokens,
        "activation": preset.activation,
    }
    return {**flags, **{name: value for name, value in own.items() if name not in given}}


def preset_notes(
    preset: Preset, model: str, recipe: Recipe, flags: Mapping[str, Any], given: set[str]
) -> list[str]:
    """What a reader must know before comparing a run with the paper's numbers."""
    found = []
    if model != preset.model:
        found.append(
            f"The model is {model}, taken for {preset.model}: its widths are the same, and nothing "
            "else of it was compared."
        )
    if recipe.tokens != preset.tokens:
        found.append(
            f"Trained on {100 * recipe.tokens / preset.tokens:.3g} % of the tokens of preset "
            f"{preset.name} ({recipe.tokens:,} of {preset.tokens:,}); the paper's numbers are of "
            "all of them."
        )
    unlike = given | _other_text(preset, recipe.text)
    others = [name for name in _PART_OF_A_PRESET if name in unlike]
    if others:
        said = ", ".join(f"--{name.replace('_', '-')} {_shown(flags[name])}" for name in others)
        found.append(f"Set up otherwise than preset {preset.name}: {said}.")
    if any(spec.architecture == "skip_transcoder" for spec in recipe.students):
        found.append(
            "Skip transcoders have the transcoder's number of parameters here, and so fewer "
            "latents than the 32 d that the paper's figure gives them."
        )
    return found


def _other_text(preset: Preset, text: TextRecipe) -> set[str]:
    """Flags that would say how text differs from the preset's; a cache brings its own text."""
    own = TextRecipe(source=preset.text)
    pairs = {
        "text": (text.source, own.source),
        "text_name": (text.options.dataset_name, own.options.dataset_name),
        "text_split": (text.options.split, own.options.split),
        "context": (text.contexts.length, own.contexts.length),
        "separator": (text.contexts.separator, own.contexts.separator),
    }
    return {name for name, (here, there) in pairs.items() if here != there}


def scale_notes(recipe: Recipe, scale: float) -> list[str]:
    """What a reader must know of a budget that was shrunk without a preset."""
    if scale == 1:
        return []
    return [
        f"Trained on {100 * scale:.3g} % of the token budget of recipe {recipe.name}: "
        f"{recipe.tokens:,} tokens."
    ]


def _shown(value: Any) -> str:
    return ",".join(str(one) for one in value) if isinstance(value, tuple) else str(value)
