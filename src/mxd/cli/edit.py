"""`mxd edit`: change experts of a layer, or measure how selective such changes are."""

from pathlib import Path
from typing import Any

import click
from rich.text import Text

from mxd.cli._editing import STUDY_OPTIONS, check_study_flags, run_study
from mxd.cli._edits import CHECK_TOKENS, check_layer_target, edits_of, firing_frequencies
from mxd.cli._options import given_flags, options
from mxd.cli._paths import check_json_target, write_json
from mxd.cli._places import place_flags
from mxd.cli._run import (
    MODEL_OPTIONS,
    SITE_OPTION,
    STUDENT_OPTION,
    command_line,
    one_sparse_layer,
)
from mxd.cli._screen import _one_line, console
from mxd.cli._types import INTEGERS, with_config
from mxd.errors import UserError
from mxd.layers import Edit, edited
from mxd.layers.edits import GRAMMAR
from mxd.training import open_run

EDIT_OPTIONS: list[Any] = [
    click.option("--expert", type=INTEGERS, help="Experts or latents to edit.  [default: none]"),
    click.option(
        "--scale", type=float,
        help="Multiply their contribution with this factor.  [default: none; 0 with --study]",
    ),
    click.option(
        "--remove", is_flag=True,
        help="Take them out of the gate's choice, so that the next best take their place.",
    ),
    click.option(
        "--replace-by", type=int,
        help="Let them contribute with this expert's modulator.  [default: none]",
    ),
    click.option("--where", type=int, help="Only where this expert is active.  [default: none]"),
    click.option(
        "--unless", type=int, help="Only where this expert is not active.  [default: none]"
    ),
    click.option(
        "--edit", multiple=True,
        help=f"One edit written out, {GRAMMAR}; may be given again.  [default: none]",
    ),
    click.option(
        "--out", type=click.Path(path_type=Path),
        help="Folder for the edited layer; not with --study.  [required]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace the layer in --out."),
    click.option(
        "--no-check", is_flag=True,
        help=f"Do not run the model over {CHECK_TOKENS:,} held-out tokens to see whether the "
        "edited experts fire.",
    ),
]  # fmt: skip


@click.command("edit")
@click.argument("run", type=click.Path(path_type=Path))
@STUDENT_OPTION
@SITE_OPTION
@options(EDIT_OPTIONS)
@options(STUDY_OPTIONS)
@options(MODEL_OPTIONS)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the results.")
@with_config
def edit_layer(run: Path, json_file: Path | None, **flags: Any) -> None:
    """Scale, remove or replace experts of a layer of RUN and save the edited layer.

    The layer in --out loads like any other. With --study, nothing is saved but figures: for every
    layer of RUN, the experts that matter most to the text --target and least to --keep are scaled,
    and the rise of the cross-entropy on both is measured, beside the same edit of random experts;
    eval/editing-TARGET-KEEP.json is written after each layer.
    """
    check_json_target(json_file)
    check_study_flags(flags, given_flags(click.get_current_context()))
    if flags["study"]:
        run_study(run, json_file, flags)
    else:
        _edit(run, json_file, flags)


def _edit(folder: Path, json_file: Path | None, flags: dict[str, Any]) -> None:
    edits, out, screen = edits_of(flags), flags["out"], console()
    if out is None:
        raise UserError("got no --out, expected a folder for the edited layer; add one")
    run = open_run(folder)
    check_layer_target(out, flags["overwrite"], folder)
    site, name, layer = one_sparse_layer(run, flags["student"], flags["site"])
    changed = edited(layer, edits)
    named = {unit for edit in edits for unit in (edit.unit, edit.where)}
    units = sorted(unit for unit in named if unit is not None)
    fires = None
    if not flags["no_check"]:
        fires = firing_frequencies(run, site, layer, units, place_flags(flags))
    changed.save_pretrained(out)
    screen.print(Text(_one_line(f"Edited {name} at {site}, saved in {out}:")))
    for edit in edits:
        screen.print(f"  {edit}{_note(fires, edit)}", markup=False)
    write_json(
        json_file,
        {
            "kind": "edit",
            "command": command_line(),
            "student": name,
            "site": site,
            "architecture": layer.config.architecture,
            "edits": [str(edit) for edit in edits],
            "frequencies": None if fires is None else {str(u): f for u, f in fires.items()},
            "out": str(out),
        },
    )


def _note(fires: dict[int, float] | None, edit: Edit) -> str:
    if fires is None:
        return ""
    if not fires[edit.unit]:
        return "  (warning: it never fired on held-out text, so the edit may change nothing)"
    if edit.where is not None and not fires[edit.where]:
        return f"  (warning: {edit.where} never fired on held-out text, so it may change nothing)"
    return f"  (fires on {fires[edit.unit]:.2%} of held-out tokens)"
