"""`mxd top`: what an expert fires on, in its contexts."""

from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from mxd.cli._options import options
from mxd.cli._paths import check_json_target, write_json
from mxd.cli._places import place_flags
from mxd.cli._run import (
    MODEL_OPTIONS,
    SITE_OPTION,
    STUDENT_OPTION,
    command_line,
    one_sparse_layer,
    open_with_model,
)
from mxd.cli._screen import _one_line, console, show_units
from mxd.cli._texts import chosen_texts
from mxd.cli._types import COUNT, INTEGERS, with_config
from mxd.errors import UserError
from mxd.evaluation import (
    Specialisation,
    find_firing,
    show_unit,
    specialisation,
    units_worth_seeing,
)
from mxd.evaluation.examples import LEVELS
from mxd.layers import SparseLayer

_READ_AS_THE_RUN = {
    "text_column": None, "doc_column": None, "text_name": None, "text_split": None,
    "skip_damaged": False,
}  # fmt: skip


@click.command("top")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--expert", type=INTEGERS, multiple=True,
    help="Experts or latents by number, from 0.  [default: those worth seeing]",
)  # fmt: skip
@options([STUDENT_OPTION, SITE_OPTION])
@click.option(
    "--count", type=COUNT, default=5, show_default=True,
    help="Contexts of each expert, and experts where none is given.",
)  # fmt: skip
@click.option(
    "--tokens", type=COUNT, default=50_000, show_default=True, help="Tokens to look through."
)
@click.option(
    "--text", help="Text to look through, as in `mxd fit`.  [default: what the run held out]"
)
@options(MODEL_OPTIONS)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="File for what is shown."
)  # fmt: skip
@with_config
def top(run: Path, expert: tuple[tuple[int, ...], ...], count: int, **flags: Any) -> None:
    """Show the contexts in which experts of RUN fire, from the strongest down.

    Of a run with several layers, the first MxD is looked at; --student and --site choose another.
    Without --expert, the usage of all experts is summed up, and the most telling ones are shown.
    """
    check_json_target(flags["json_file"])
    opened = open_with_model(run, **place_flags(flags))
    site, name, layer = one_sparse_layer(opened.run, flags["student"], flags["site"])
    asked = list(dict.fromkeys(number for numbers in expert for number in numbers))
    _check(layer, name, asked)
    where = {"text": (flags["text"],) if flags["text"] else (), "held_out": False}
    budget = {"tokens": flags["tokens"], "batch_contexts": 16}
    (text,) = chosen_texts(opened, {**where, **budget, **_READ_AS_THE_RUN})
    firing = find_firing(opened.model, site, layer, text.contexts, tokens=flags["tokens"])
    usage = specialisation(layer, firing)
    dull = opened.tokenizer.all_special_ids
    shown = asked or units_worth_seeing(firing, count, dull_token_ids=dull)
    levels = LEVELS[:count] if count <= len(LEVELS) else tuple(np.linspace(1, 0.1, count).tolist())
    units = [show_unit(firing, unit, opened.tokenizer, levels=levels) for unit in shown]
    write_json(
        flags["json_file"],
        {
            "kind": "top",
            "command": command_line(),
            "name": name,
            "site": site,
            "text": text.described,
            "tokens": usage.tokens,
            "specialisation": usage.to_dict(),
            "units": [{**unit.to_dict(), "dead": not unit.examples} for unit in units],
        },
    )
    screen = console()
    if not asked:
        _show_usage(screen, name, site, usage)
    show_units(screen, name, [unit for unit in units if unit.examples])
    for unit in units:
        if not unit.examples:
            screen.print(
                f"\nExpert {unit.unit} of {_one_line(name)} is dead on this text: it never fires "
                f"in {usage.tokens:,} tokens ({_one_line(text.described)})",
                markup=False,
            )
    if not units:
        screen.print("No expert fires often and selectively enough to be worth seeing")


def _check(layer: SparseLayer, name: str, experts: list[int]) -> None:
    wrong = [number for number in experts if not 0 <= number < layer.config.n_units]
    if wrong:
        raise UserError(
            f"got --expert {', '.join(map(str, wrong))}, expected 0 to "
            f"{layer.config.n_units - 1}, the experts of {name}; choose another, or another "
            "layer with --student"
        )


def _show_usage(screen: Console, name: str, site: str, usage: Specialisation) -> None:
    """The usage of all units in a few lines, the histogram as bars."""
    screen.print(
        f"{_one_line(f'{name} at {site}')}, on {usage.tokens:,} tokens: {usage.units:,} units, "
        f"{usage.dead:,} dead ({usage.dead_fraction:.0%}), {usage.l0:.1f} active a token; "
        f"{usage.above_10pct} on more than 10 % of tokens, {len(usage.always_on)} on more than "
        f"90 %; the most frequent carries {usage.share_of_top_1:.0%} of the summed norms, the top "
        f"tenth {usage.share_of_top_10pct:.0%}; usage entropy {usage.usage_entropy:.2f}",
        markup=False,
    )
    most = max([1, *usage.log10_frequency_counts])
    edges = usage.log10_frequency_edges
    for low, high, units in zip(edges, edges[1:], usage.log10_frequency_counts, strict=False):
        if units:
            bar = "█" * max(1, round(40 * units / most))
            screen.print(f"  on {10**low:8.3%} to {10**high:8.3%} of tokens  {bar} {units}")
