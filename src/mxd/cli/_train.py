"""The training that `mxd fit` and `mxd sweep` share."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mxd.cli._paths import keeping, lasting, next_free
from mxd.cli._screen import training_progress
from mxd.demo import resolve_model
from mxd.errors import UserError
from mxd.host import load_model, load_tokenizer
from mxd.training import CheckpointOptions, Progress, Recipe, Run, check_free, fit


@dataclass(frozen=True)
class Trained:
    """What a training leaves for the verb that asked for it."""

    run: Run
    """The run."""
    model: PreTrainedModel
    """Its base model, on its device."""
    tokenizer: PreTrainedTokenizerBase
    """The model's tokenizer."""
    progress: Progress | None
    """The last that was said of it; None where nothing was left to train."""


def run_folder(verb: str, model: str, flags: dict[str, Any]) -> Path:
    """The folder of a run: what --out says, or the next free name; the first, to go on with it.

    Raises:
        UserError: there is something already, or it cannot be written to.
    """
    usual = Path(f"mxd-{verb}-{Path(model).name}")
    if flags["resume"]:
        if flags["overwrite"]:
            raise UserError("got --resume and --overwrite, expected one of them; leave one out")
        return flags["out"] or usual
    if flags["accept_changes"]:
        raise UserError("got --accept-changes without --resume, expected both; add --resume")
    out: Path = flags["out"] or next_free(usual)
    check_free(out, flags["overwrite"])
    return out


def train(
    model: str,
    recipe: Recipe,
    flags: dict[str, Any],
    *,
    out: Path,
    screen: Console,
    check: Callable[[PreTrainedModel], None] | None = None,
    further: Mapping[str, Any] | None = None,
) -> Trained:
    """Load a model and train a recipe on it, with progress on the screen.

    Args:
        model: hub id, folder, or name of a bundled model.
        recipe: what to train.
        flags: those of `mxd fit`.
        out: folder of the run.
        screen: where progress goes.
        check: looks at the model before any work is done.
        further: more entries for run.json.

    Raises:
        UserError: something that the user can mend.
        Interrupted: Ctrl-C or SIGTERM; it says where the run is saved.
    """
    resolved = resolve_model(model)
    revision = flags["revision"]
    host = load_model(
        resolved,
        device=recipe.device,
        dtype=flags["dtype"],
        revision=revision,
        device_map=flags["device_map"],
        load_in=flags["load_in"],
        tensor_parallel=flags.get("tensor_parallel", False),
    )
    tokenizer = load_tokenizer(resolved, revision=revision)
    if check is not None:
        check(host)
    screen.print(
        f"Training {len(recipe.students)} layers at each of "
        f"{len(recipe.layers) + len(recipe.sites)} sites of {model} on {recipe.tokens:,} tokens "
        f"(recipe {recipe.name})",
        markup=False,
    )
    said: list[Progress] = []
    with keeping(out), training_progress(screen) as show:

        def on_progress(progress: Progress) -> None:
            said[:] = [progress]
            show(progress)

        run = fit(
            host,
            tokenizer,
            recipe,
            out=out,
            overwrite=flags["overwrite"],
            base_model=model if resolved != model else lasting(model),
            command=["mxd", *sys.argv[1:]],
            further=further,
            on_progress=on_progress,
            checkpoints=CheckpointOptions(
                every_steps=flags["checkpoint_every"],
                every_minutes=flags["checkpoint_minutes"],
                keep=flags["keep_checkpoints"],
            ),
            resume=flags["resume"],
            accept_changes=flags["accept_changes"] or (),
            layout=flags.get("layout"),
        )
    return Trained(run, host, tokenizer, said[0] if said else None)


def show_training(screen: Console, run: Run) -> None:
    """A line for each student: its error, and whether it was still falling."""
    shown = None
    for site, name, layer in run.each():
        if site != shown:
            screen.print(f"\n{site}", markup=False)
            shown = site
        training = layer.provenance.training
        last = training["nmse_last_tenth"]
        falling = ", still falling" if training["still_falling"] else ""
        found = (
            "diverged; lower its learning rate"
            if last is None
            else f"NMSE {last:.4f} over the last tenth of the run{falling}"
        )
        screen.print(f"  {name}: {found}", markup=False)
