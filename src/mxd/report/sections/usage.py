"""How the work is divided among the units of each layer."""

from typing import Any

from mxd.report._desk import Desk
from mxd.report._histograms import draw_usage
from mxd.report._intervals import mean_of
from mxd.report._looks import look
from mxd.report._series import Alike, at_k, sets_of, shown_k
from mxd.report._show import NOTHING, count, decimal, number, percent
from mxd.report.blocks import Block, Column, Line, Section, Table
from mxd.report.combining import Group
from mxd.report.reading import Document, mapping, mappings
from mxd.report.sections.picture import picture

_SHARES = ("share_of_top_1", "share_of_top_10", "share_of_top_1pct", "share_of_top_10pct")
_COLUMNS = [
    Column("layer", "layer", "Architecture of the layer, and its ablation."),
    Column("k", "K", "Units that may be active for a token."),
    Column("seeds", "seeds", "Seeds that the figures are the mean of."),
    Column("dead_fraction", "dead", "Share of units that never fired on the text looked at."),
    Column("usage_entropy", "entropy", "Entropy of how often units fire, over log N: 1 is even."),
    Column("always_on", "always on", "Units that fire on more than 90 % of tokens, mean."),
    Column("above_10pct", "> 10 %", "Units that fire on more than 10 % of tokens, mean."),
    Column("share_of_top_1", "top 1", "Share of Σ‖aₙcₙ‖ that the most frequent unit carries."),
    Column("share_of_top_10", "top 10", "The same of the ten most frequent units."),
    Column("share_of_top_1pct", "top 1 %", "The same of the most frequent hundredth."),
    Column("share_of_top_10pct", "top 10 %", "The same of the most frequent tenth."),
    Column(
        "token_sets",
        "overlap (chance)",
        "Mean Jaccard index, over pairs of the most used units, of the token types they fire on; "
        "in brackets, where the same firings are dealt at random.",
    ),
]


def usage(group: Group, desk: Desk) -> Section | None:
    """Histogram of firing frequencies, and shares carried by the most used units."""
    evaluation = group.evaluation
    layers = mappings(evaluation.get("specialisation"))
    if not layers:
        return None
    command = desk.made_by(evaluation)
    blocks: list[Block] = []
    k = shown_k(layers)
    for site in dict.fromkeys(str(layer.get("site")) for layer in layers):
        chosen = at_k([layer for layer in layers if str(layer.get("site")) == site], k)
        paths = draw_usage(chosen, desk.stem("usage"), desk.facts(site, f"K = {k}"))
        if paths:
            seen = number(next(iter(chosen.values()))[0].get("tokens"))
            blocks.append(
                picture(
                    paths,
                    "Histogram of the share of tokens on which units fire, one line for each "
                    "architecture.",
                    f"How often units fire on {count(seen)} held-out tokens at {site}, K = {k}, "
                    "as shares of all units (mean over seeds); units that never fire are in no "
                    "bin. A hump at the right end is a unit that is always on.",
                    command,
                )
            )
    sets = sets_of(layers)
    several = len({site for site, _ in sets}) > 1
    blocks.append(
        Table(
            desk.name("usage"),
            "Use of units, mean over seeds. A faithful layer whose work is done by a few units "
            "that are always on is a dense MLP in disguise.",
            _COLUMNS,
            [Line(_cells(one), site if several else "") for site, one in sets],
            [_record(layer) for layer in layers],
            command,
        )
    )
    return Section("Use of units", blocks)


def _cells(one: Alike) -> list[str]:
    layers = [{**layer, "on": _many(layer.get("always_on"))} for layer in one.every]
    overlaps = [mapping(mapping(layer.get("overlap")).get("token_sets")) for layer in layers]
    overlap = decimal(mean_of(overlaps, "mean"))
    return [
        ", ".join(filter(None, (look(one.architecture).name, one.variant))),
        count(one.k),
        str(len(layers)),
        percent(mean_of(layers, "dead_fraction")),
        decimal(mean_of(layers, "usage_entropy")),
        decimal(mean_of(layers, "on"), 1),
        decimal(mean_of(layers, "above_10pct"), 1),
        *(percent(mean_of(layers, key)) for key in _SHARES),
        overlap
        if overlap == NOTHING
        else f"{overlap} ({decimal(mean_of(overlaps, 'chance_mean'))})",
    ]


def _many(units: Any) -> int | None:
    return len(units) if isinstance(units, list) else None


def _record(layer: Document) -> dict[str, Any]:
    record = {key: value for key, value in layer.items() if not isinstance(value, (dict, list))}
    record["always_on"] = _many(layer.get("always_on"))
    for respect, figures in mapping(layer.get("overlap")).items():
        for key, value in mapping(figures).items():
            record[f"overlap_{respect}_{key}"] = value
    return record
