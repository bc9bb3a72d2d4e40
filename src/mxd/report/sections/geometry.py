"""Rank of the experts, and how alike units are."""

from typing import Any

from mxd.report._desk import Desk
from mxd.report._histograms import draw_rank, draw_similarity
from mxd.report._intervals import mean_of
from mxd.report._looks import look
from mxd.report._series import Alike, at_k, sets_of, shown_k
from mxd.report._show import NOTHING, count, decimal, number, percent
from mxd.report.blocks import Block, Column, Line, Section, Table
from mxd.report.combining import Group
from mxd.report.reading import Document, mapping, mappings
from mxd.report.sections.picture import picture

_COLUMNS = [
    Column("layer", "layer", "Architecture of the layer, and its ablation."),
    Column("k", "K", "Units that may be active for a token."),
    Column("seeds", "seeds", "Seeds: means are over seeds, minima the least of all."),
    Column("mean_normalised_rank", "rank", "rank(Wₙ) / min(H, O), mean over sampled experts."),
    Column("min_normalised_rank", "least rank", "The least of those experts."),
    Column("mean_effective_rank", "effective rank", "exp of the entropy of σ / Σσ, mean."),
    Column("min_smallest_singular_value", "least σ", "Smallest singular value of any of them."),
    Column("zeroed_modulators", "zeroed", "Experts, of all, whose modulator is zero, mean."),
    Column("mean_cosine", "mean cosine", "Mean over all pairs of units (cₙ, or decoder rows)."),
    Column("mean_nearest_cosine", "nearest", "Mean cosine of a unit with its nearest other."),
    Column("twin_share", "twins", "Share of units with another at a cosine of 0.95 or more."),
]


def geometry(group: Group, desk: Desk) -> Section | None:
    """Distributions of rank and of likeness, and a table of both."""
    evaluation = group.evaluation
    layers = mappings(evaluation.get("geometry"))
    if not layers:
        return None
    command = desk.made_by(evaluation)
    blocks: list[Block] = []
    k = shown_k(layers)
    for site in dict.fromkeys(str(layer.get("site")) for layer in layers):
        here = [layer for layer in layers if str(layer.get("site")) == site]
        blocks += _rank(here, site, desk, command)
        blocks += _similarity(here, site, k, desk, command)
    sets = sets_of(layers)
    several = len({site for site, _ in sets}) > 1
    blocks.append(
        Table(
            desk.name("geometry"),
            "Rank of experts that fire (a sample of each layer's) and likeness of units that "
            "fire. Rank has a meaning for an MxD alone: the units of the others are vectors.",
            _COLUMNS,
            [Line(_cells(one), site if several else "") for site, one in sets],
            [_record(layer) for layer in layers],
            command,
        )
    )
    return Section("Rank and geometry", blocks)


def _rank(layers: list[Document], site: str, desk: Desk, command: str) -> list[Block]:
    ranks: dict[str, list[Document]] = {}
    for _, one in sets_of(layers):
        found = [rank for layer in one.every if (rank := mapping(layer.get("rank")))]
        if found and one.variant is None:
            ranks[count(one.k)] = found
    if not ranks:
        return []
    experts = sum(len(one.get("experts") or []) for members in ranks.values() for one in members)
    return [
        picture(
            draw_rank(ranks, desk.stem("rank"), desk.facts(site)),
            "Two panels: normalised rank and smallest singular value of sampled experts, by K.",
            f"Rank of {experts} sampled experts of the MxDs at {site}, a point each, all seeds; "
            "lines are medians. Experts of full rank lie at 1; a smallest singular value near "
            "zero is the beginning of rank collapse.",
            command,
        )
    ]


def _similarity(
    layers: list[Document], site: str, k: int | None, desk: Desk, command: str
) -> list[Block]:
    paths = draw_similarity(at_k(layers, k), desk.stem("similarity"), desk.facts(site, f"K = {k}"))
    if not paths:
        return []
    return [
        picture(
            paths,
            "Histogram of the cosine of each unit with its nearest other, one line for each "
            "architecture.",
            f"Cosine of each unit that fires with its nearest other at {site}, K = {k}: of "
            "modulators for an MxD, of decoder rows for the others; shares of units, mean over "
            "seeds. A hump near 1 is units that do the same thing.",
            command,
        )
    ]


def _cells(one: Alike) -> list[str]:
    ranks = [mapping(layer.get("rank")) for layer in one.every]
    alike = [mapping(layer.get("similarity")) for layer in one.every]
    return [
        ", ".join(filter(None, (look(one.architecture).name, one.variant))),
        count(one.k),
        str(len(one.every)),
        decimal(mean_of(ranks, "mean_normalised_rank")),
        _least(ranks, "min_normalised_rank"),
        decimal(mean_of(ranks, "mean_effective_rank"), 1),
        _least(ranks, "min_smallest_singular_value"),
        decimal(mean_of(ranks, "zeroed_modulators"), 1),
        decimal(mean_of(alike, "mean_cosine")),
        decimal(mean_of(alike, "mean_nearest_cosine")),
        percent(mean_of(alike, "twin_share")),
    ]


def _least(members: list[Document], key: str) -> str:
    values = [value for one in members if (value := number(one.get(key))) is not None]
    return decimal(min(values)) if values else NOTHING


def _record(layer: Document) -> dict[str, Any]:
    record = {key: layer.get(key) for key in ("name", "site", "architecture")}
    for part in ("rank", "similarity", "weighted_similarity"):
        for key, value in mapping(layer.get(part)).items():
            if not isinstance(value, (dict, list)):
                record[f"{part}_{key}"] = value
    return record
