"""The headline table, as display strings that the page and the terminal share."""

from dataclasses import dataclass
from typing import Any

from mxd.report._looks import CONTROLS, look, rank
from mxd.report._names import parse_name
from mxd.report._show import NOTHING, compact, count, decimal, increase, percent
from mxd.report.blocks import Column
from mxd.report.reading import mappings

COLUMNS = [
    Column(
        "layer", "layer", "Architecture of the layer, with its seed where several were trained."
    ),
    Column("k", "K", "Units that may be active for a token."),
    Column(
        "width", "units", "Gated units to choose from: experts of an MxD, latents of the others."
    ),
    Column("parameters", "params", "All parameters of the layer."),
    Column(
        "active_parameters",
        "active",
        "Parameters that touch one token's output. Equal K is not equal activity.",
    ),
    Column(
        "nmse",
        "NMSE",
        "Normalised mean squared error: mean over tokens of ‖ŷ − y‖² / ‖y‖². Lower is better.",
    ),
    Column(
        "static_nmse",
        "static NMSE",
        "NMSE with the modulation frozen at its mean. If it is no higher than NMSE, the gate "
        "explains nothing.",
    ),
    Column(
        "modulation_share",
        "modulation",
        "Share of the modulation that varies with the token: E‖m − E m‖² / E‖m‖².",
    ),
    Column(
        "delta_cross_entropy",
        "Δ CE ± 95 %",
        "Increase of next-token cross-entropy over the base model, in nats per token, with 1.96 "
        "standard errors (paired, by document). The interval is of this increase alone: that two "
        "intervals overlap does not say that two layers are equal.",
    ),
    Column(
        "loss_recovered",
        "recovered",
        "Loss recovered: (CE with the output at zero − CE of the layer) / (CE with the output at "
        "zero − CE of the base model).",
    ),
    Column("l0", "L0", "Mean number of active units for a token."),
    Column("dead_fraction", "dead", "Share of units that never fired on this text."),
    Column(
        "max_expert_frequency",
        "top freq.",
        "Share of tokens on which the most frequent unit fires. Near 100 % it is always on.",
    ),
]
"""Columns of the headline table, from left to right."""


@dataclass(frozen=True)
class Row:
    """One layer."""

    site: str
    """Name of the module that it replaces."""
    is_control: bool
    """Whether it is there to judge the others by."""
    cells: tuple[str, ...]
    """Display strings, in the order of COLUMNS."""


def table_rows(evaluation: dict[str, Any]) -> list[Row]:
    """One row a layer: by site, what is compared before the controls, by architecture and K.

    Args:
        evaluation: the document that `mxd eval --json` writes.
    """
    layers = mappings(evaluation.get("layers"))
    sites = list(dict.fromkeys(str(layer.get("site")) for layer in layers))
    several_seeds = len({layer.get("seed") for layer in layers}) > 1

    def place(layer: dict[str, Any]) -> tuple[int, bool, int, int, int]:
        architecture = str(layer.get("architecture"))
        return (
            sites.index(str(layer.get("site"))),
            architecture in CONTROLS,
            rank(architecture),
            layer.get("k") or 0,
            layer.get("seed") or 0,
        )

    return [
        Row(
            site=str(layer.get("site")),
            is_control=str(layer.get("architecture")) in CONTROLS,
            cells=_cells(layer, several_seeds),
        )
        for layer in sorted(layers, key=place)
    ]


def references(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """Cross-entropies to read the table by: the base model's, and those of each site ablated."""
    base = ("base model", decimal(evaluation.get("base_cross_entropy"), 4))
    sites = mappings(evaluation.get("sites"))
    places = [(f" at {site.get('site')}", site) for site in sites] if len(sites) > 1 else []
    places.append((" at all of them" if places else "", evaluation))
    return [base] + [
        (
            f"output set to {what}{where}",
            decimal(figures.get(f"{key}_ablation_cross_entropy"), 4),
        )
        for where, figures in places
        for key, what in (("zero", "zero"), ("mean", "its mean"))
    ]


def _cells(layer: dict[str, Any], several_seeds: bool) -> tuple[str, ...]:
    get = layer.get
    cells = {
        "layer": _name(layer, several_seeds),
        "k": count(get("k")),
        "width": count(get("width")),
        "parameters": compact(get("parameters")),
        "active_parameters": compact(get("active_parameters")),
        "nmse": decimal(get("nmse")),
        "static_nmse": decimal(get("static_nmse")),
        "modulation_share": percent(get("modulation_share")),
        "delta_cross_entropy": increase(get("delta_cross_entropy"), get("delta_cross_entropy_se")),
        "loss_recovered": percent(get("loss_recovered")),
        "l0": decimal(get("l0"), 1),
        "dead_fraction": percent(get("dead_fraction")),
        "max_expert_frequency": percent(get("max_expert_frequency")),
    }
    return tuple(cells[column.key] for column in COLUMNS)


def _name(layer: dict[str, Any], several_seeds: bool) -> str:
    parts = [look(str(layer.get("architecture"))).name]
    student = parse_name(layer.get("name", ""))
    if student.variant:
        parts.append(student.variant)
    if several_seeds:
        seed = layer.get("seed")
        parts.append(f"seed {NOTHING if seed is None else seed}")
    if student.lr:  # a grid puts it in the name
        parts.append(f"lr {student.lr}")
    return ", ".join(parts)
