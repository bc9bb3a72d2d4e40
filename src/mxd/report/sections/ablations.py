"""Ablations: what one change does to a layer, seed by seed."""

from typing import Any

from mxd.report._desk import Desk
from mxd.report._intervals import Interval, of_layers, over_seeds
from mxd.report._looks import look
from mxd.report._series import Alike, alike, by_site
from mxd.report._show import NOTHING, count, decimal, number, plus_minus
from mxd.report.blocks import Column, Line, Section, Table
from mxd.report.combining import Group

_FIGURES = ("nmse", "delta_cross_entropy", "static_nmse", "dead_fraction")
_COLUMNS = [
    Column("variant", "change", "Label of the ablation."),
    Column("architecture", "layer", "Architecture of the layer."),
    Column("k", "K", "Units that may be active for a token."),
    Column("seeds", "seeds", "Seeds of both the changed layer and its base line."),
    Column("nmse", "NMSE", "NMSE with the change, mean over seeds."),
    Column("nmse_difference", "− base line", "Difference of NMSE: below zero, the change helps."),
    Column("delta_cross_entropy", "Δ CE", "Increase of the cross-entropy with the change."),
    Column(
        "delta_cross_entropy_difference", "− base line", "Difference of that: below zero, it helps."
    ),
    Column("static_nmse", "static NMSE", "NMSE with the modulation frozen at its mean."),
    Column("dead_fraction_difference", "dead − base line", "Difference of the dead share."),
]  # fmt: skip


def ablations(group: Group, desk: Desk) -> Section | None:
    """Each changed layer against the unchanged one of the same architecture, K and seed."""
    evaluation = group.evaluation
    if not evaluation.get("layers"):
        return None
    found = [
        (site, one, _base_of(one, sets))
        for site, layers in by_site(evaluation).items()
        for sets in [alike(layers)]
        for one in sets
        if one.variant is not None
    ]
    if not found:
        return None
    records = [_record(site, one, base) for site, one, base in found]
    several = len({site for site, _, _ in found}) > 1
    table = Table(
        desk.name("ablations"),
        "Each change beside the unchanged layer of the same architecture, K and seed. Differences "
        "are means over seeds of changed minus unchanged, with the 95 % interval between seeds "
        "(Student's t) where there are two or more; one seed gives none.",
        _COLUMNS,
        [Line(_cells(record), str(record["site"]) if several else "") for record in records],
        records,
        desk.made_by(evaluation),
    )
    return Section("Ablations", [table])


def _base_of(one: Alike, sets: list[Alike]) -> Alike | None:
    """The unchanged layers of the same K."""
    same = [base for base in sets if base.variant is None and base.architecture == one.architecture]
    return next((base for base in same if base.k == one.k), None)


def _record(site: str, one: Alike, base: Alike | None) -> dict[str, Any]:
    by_seed = {str(layer.get("seed")): layer for layer in (base.best if base else [])}
    pairs = [
        (layer, by_seed[seed]) for layer in one.best if (seed := str(layer.get("seed"))) in by_seed
    ]
    record: dict[str, Any] = {
        "site": site,
        "variant": one.variant,
        "architecture": one.architecture,
        "k": one.k,
        "seeds": len(pairs) or len(one.best),
    }
    for key in _FIGURES:
        found = of_layers(one.best, key)
        apart = _difference(pairs, key)
        record[key] = None if found is None else found.mean
        record[f"{key}_difference"] = None if apart is None else apart.mean
        record[f"{key}_difference_half_95"] = None if apart is None else apart.half
    return record


def _difference(pairs: list[tuple[dict[str, Any], dict[str, Any]]], key: str) -> Interval | None:
    """Changed minus unchanged, seed by seed: what both seeds share cancels."""
    apart = [
        changed - unchanged
        for one, base in pairs
        if (changed := number(one.get(key))) is not None
        and (unchanged := number(base.get(key))) is not None
    ]
    return over_seeds(apart) if apart else None


def _cells(record: dict[str, Any]) -> list[str]:
    def apart(key: str, digits: int) -> str:
        mean, half = record[f"{key}_difference"], record[f"{key}_difference_half_95"]
        return NOTHING if mean is None else plus_minus(mean, half, digits, signed=True)

    return [
        str(record["variant"]),
        look(record["architecture"]).name,
        count(record["k"]),
        str(record["seeds"]),
        decimal(record["nmse"]),
        apart("nmse", 4),
        plus_minus(record["delta_cross_entropy"], None, 4, signed=True),
        apart("delta_cross_entropy", 4),
        decimal(record["static_nmse"]),
        apart("dead_fraction", 3),
    ]
