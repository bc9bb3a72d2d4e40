"""`mxd fit`: train layers for any Hugging Face causal language model on any text."""

from pathlib import Path
from typing import Any

import click

from mxd.cli._activations import with_activations
from mxd.cli._options import FIT_OPTIONS, given_flags, options
from mxd.cli._paths import check_json_target, write_json
from mxd.cli._processes import processes
from mxd.cli._recipe import recipe_from_flags
from mxd.cli._screen import console
from mxd.cli._train import run_folder, show_training, train
from mxd.cli._types import with_config
from mxd.training import Recipe, begun_run, check_layout, is_done, open_run


@click.command("fit")
@click.argument("model")
@options(FIT_OPTIONS)
@with_config
def fit_layers(model: str, **flags: Any) -> None:
    """Train sparse layers for MLPs of MODEL, all from one pass over the text.

    MODEL is a hub id, a folder, or the name of a bundled model (small-gpt2, small-llama). Lists are
    comma-separated and multiply: two architectures and two K make four layers at each site.

    Several processes train one run under torchrun: torchrun --nproc-per-node 2 -m mxd fit ...
    """
    flags = with_activations(flags, given_flags(click.get_current_context()))
    recipe = recipe_from_flags(flags)
    check_json_target(flags["json_file"])
    with processes(flags["device"], flags["distributed_timeout"]) as here:
        here.told(lambda: _can_divide(flags["layout"], here.count, recipe))
        out = Path(here.told(lambda: str(run_folder("fit", model, flags))))
        screen = console()
        screen.quiet = not here.first
        if flags["resume"] and here.told(lambda: _is_done(out, recipe, flags)):
            if here.first:
                write_json(flags["json_file"], open_run(out).record)
            screen.print(f"The run in {out} is finished: nothing to resume.", markup=False)
            return
        trained = train(model, recipe, flags, out=out, screen=screen)
        if here.first:
            write_json(flags["json_file"], trained.run.record)
            show_training(screen, trained.run)
        screen.print(f"\nRun: {out}\nNext: mxd eval {out}", markup=False)


def _can_divide(layout: str | None, processes: int, recipe: Recipe) -> str:
    """Refuse a layout or a recipe that so many processes cannot train, before there is a model."""
    check_layout(layout, processes, recipe)
    return ""


def _is_done(out: Path, recipe: Recipe, flags: dict[str, Any]) -> str:
    """Whether nothing is left to be done, before the model is loaded; "" if there is."""
    done = is_done(out, begun_run(out), recipe, flags["accept_changes"] or ())
    return "done" if done else ""
