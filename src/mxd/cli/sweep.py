"""`mxd sweep`: a grid of layers from one pass of the model, evaluated and drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from transformers import PreTrainedModel

from mxd.cli._activations import with_activations
from mxd.cli._measure import evaluate_held_out
from mxd.cli._options import SWEEP_OPTIONS, given_flags, options
from mxd.cli._paths import check_json_target, keeping, write_json
from mxd.cli._presets import preset_notes, scale_notes, with_preset
from mxd.cli._recipe import recipe_from_flags
from mxd.cli._run import Opened
from mxd.cli._screen import console, show_figures
from mxd.cli._train import run_folder, show_training, train
from mxd.cli._types import COUNT, with_config
from mxd.errors import UserError
from mxd.training import (
    PRESETS,
    Preset,
    Progress,
    Recipe,
    StudentSpec,
    read_ablations,
    resolve_sites,
    scaled,
)


@click.command("sweep")
@click.argument("model", required=False)
@click.option(
    "--preset", type=click.Choice(list(PRESETS)),
    help="One of the paper's models: its layer, N, activation, recipe, text and published "
    "numbers; flags given here win.  [default: none]",
)  # fmt: skip
@click.option(
    "--scale", type=float, default=1.0, show_default=True,
    help="Share of the token budget to train on, above 0 and up to 1; warm-up shrinks with it.",
)  # fmt: skip
@click.option(
    "--ablations", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file of changes to a base line, each trained beside the grid.  [default: none]",
)  # fmt: skip
@options(SWEEP_OPTIONS)
@click.option(
    "--eval-tokens", type=COUNT, default=200_000, show_default=True,
    help="Held-out tokens to evaluate on.",
)  # fmt: skip
@click.option(
    "--batch-contexts", type=COUNT, default=16, show_default=True,
    help="Contexts in a forward pass of the evaluation.",
)  # fmt: skip
@with_config
def sweep(model: str | None, **flags: Any) -> None:
    """Train a grid of layers for MODEL from one pass of it, evaluate them and draw the figures.

    MODEL is as in `mxd fit`; with --preset it may be left out, or name a local copy. Architectures,
    K, seeds and learning rates multiply, at every site; --ablations adds variants of a base line.
    """
    given = given_flags(click.get_current_context())
    preset = None if flags["preset"] is None else PRESETS[flags["preset"]]
    if preset is not None:
        flags = with_preset(preset, flags, given)
    model = model or (None if preset is None else preset.model)
    if model is None:
        raise UserError("got neither MODEL nor --preset, expected one of them; name a model")
    flags = with_activations(flags, given)
    recipe = _with_controls(recipe_from_flags(flags), flags)
    recipe = scaled(_with_ablations(recipe, flags), flags["scale"])
    check_json_target(flags["json_file"])
    out, screen = run_folder("sweep", model, flags), console()
    trained = train(
        model,
        recipe,
        flags,
        out=out,
        screen=screen,
        check=None if preset is None else _check(preset, recipe),
        further=_further(preset, model, recipe, flags, given),
    )
    show_training(screen, trained.run)
    with keeping(out):
        document = evaluate_held_out(
            Opened(trained.run, out, trained.model, trained.tokenizer),
            tokens=flags["eval_tokens"],
            batch_contexts=flags["batch_contexts"],
            screen=screen,
        )
    write_json(flags["json_file"], document)
    show_figures(screen, document)
    for note in trained.run.record.get("notes", []):
        screen.print(note, markup=False)
    if trained.progress is not None:
        _show_cost(screen, trained.progress)
    screen.print(f"Report: {out / 'report.html'}", markup=False)


def _with_controls(recipe: Recipe, flags: dict[str, Any]) -> Recipe:
    """Put what is trained at one K beside the grid."""
    ks = sorted(flags["k"])
    k = flags["control_k"] or ks[(len(ks) - 1) // 2]
    more = (
        StudentSpec(architecture=architecture, k=k, seed=seed, lr=rate)
        for architecture in flags["controls"] or ()
        for seed in flags["seed"]
        for rate in _several_rates(flags)
    )
    return replace(recipe, students=tuple(dict.fromkeys((*recipe.students, *more))))


def _several_rates(flags: dict[str, Any]) -> tuple[float | None, ...]:
    """The learning rates of a grid; a single one is the recipe's business."""
    rates: tuple[float, ...] = flags["lr"] or ()
    return rates if len(rates) > 1 else (None,)


def _with_ablations(recipe: Recipe, flags: dict[str, Any]) -> Recipe:
    """Put the base line and the variants of a file beside the grid, each once."""
    if flags["ablations"] is None:
        return recipe
    found = read_ablations(flags["ablations"])
    idle = [
        name for name, change in found.variants.items() if change.on(recipe.layer) == recipe.layer
    ]
    if idle:
        raise UserError(
            f"{flags['ablations']} changes nothing in {', '.join(idle)}, where the other flags say "
            "the same already, expected another value; change it, or leave the line out"
        )
    more = found.students(k=flags["k"][0], seeds=flags["seed"], rates=_several_rates(flags))
    return replace(recipe, students=tuple(dict.fromkeys((*recipe.students, *more))))


def _check(preset: Preset, recipe: Recipe) -> Any:
    def check(host: PreTrainedModel) -> None:
        for site in resolve_sites(host, recipe):
            preset.check(site)

    return check


def _further(
    preset: Preset | None, model: str, recipe: Recipe, flags: dict[str, Any], given: set[str]
) -> dict[str, Any]:
    """What run.json says beside the recipe: sentences for reports, and the preset."""
    if preset is None:
        notes = scale_notes(recipe, flags["scale"])
        return {"notes": notes} if notes else {}
    return {
        "notes": preset_notes(preset, model, recipe, flags, given),
        "preset": preset.record(scale=recipe.tokens / preset.tokens),
    }


def _show_cost(screen: Console, progress: Progress) -> None:
    """What one pass for all students saved: single runs would harvest once for each student."""
    harvest, steps, students = (
        progress.harvest_seconds, progress.student_seconds, len(progress.rows),
    )  # fmt: skip
    line = (
        f"Cost: {harvest:.1f} s harvesting activations, {steps:.1f} s in the steps of {students} "
        f"student{'' if students == 1 else 's'}"
    )
    if students > 1:
        share = (harvest + steps) / (students * harvest + steps)
        line += (
            f"; {students} single runs would harvest {students} times, so this took {share:.2f} of "
            "their time (estimated from these two figures)"
        )
    screen.print(line, markup=False)
