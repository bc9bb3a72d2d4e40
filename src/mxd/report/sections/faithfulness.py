"""What the layers cost the model, and how they use their units: the headline table."""

from collections.abc import Sequence
from typing import Any

from mxd.report._desk import Desk
from mxd.report._intervals import SEEDS, mean_of, of_layers
from mxd.report._looks import CONTROLS, look
from mxd.report._series import Alike, alike, base_line, by_site
from mxd.report._show import NOTHING, compact, count, decimal, percent, plus_minus
from mxd.report.blocks import Block, Column, Line, Prose, Section, Table
from mxd.report.combining import Group
from mxd.report.figures import draw_activity, draw_frontier
from mxd.report.sections.picture import picture
from mxd.report.table import COLUMNS, references, table_rows

_SEEDS = Column("seeds", "seeds", "How many seeds were trained; the figures are their mean.")
_BETWEEN_SEEDS = {
    "layer": COLUMNS[0]._replace(meaning="Architecture of the layer."),
    "nmse": Column("nmse", "NMSE ± 95 %", "Mean over tokens of ‖ŷ − y‖² / ‖y‖². Lower is better."),
    "delta_cross_entropy": Column(
        "delta_cross_entropy",
        "Δ CE ± 95 %",
        "Increase of next-token cross-entropy over the base model, in nats per token.",
    ),
}
FIGURES = (
    "nmse", "nmse_without_bos", "fvu", "static_nmse", "modulation_share", "delta_cross_entropy",
    "loss_recovered", "kl", "l0", "dead_fraction", "usage_entropy", "max_expert_frequency",
    "top_expert_share",
)  # fmt: skip


def faithfulness(group: Group, desk: Desk) -> Section | None:
    """The table of architectures by K, the frontier, and loss against activity."""
    evaluation = group.evaluation
    if not evaluation.get("layers"):
        return None
    command = desk.made_by(evaluation)
    named = ", ".join(f"{name} {value}" for name, value in references(evaluation))
    blocks: list[Block] = [
        _table(evaluation, desk, command),
        Prose([f"Cross-entropy in nats per token: {named}."]),
        *_pictures(evaluation, desk, command),
    ]
    if len(evaluation["layers"]) > len(_sets(evaluation)):
        blocks.append(_every_layer(evaluation, desk, command))
    return Section("Faithfulness and use of units", blocks)


def _sets(evaluation: dict[str, Any]) -> list[tuple[str, Alike]]:
    return [
        (site, one)
        for site, layers in by_site(evaluation).items()
        for one in alike(base_line(layers))
    ]


def _table(evaluation: dict[str, Any], desk: Desk, command: str) -> Table:
    sets = _sets(evaluation)
    seeds = {len(one.best) for _, one in sets}
    changed = _BETWEEN_SEEDS if max(seeds) > 1 else {}
    columns = [changed.get(column.key, column) for column in COLUMNS]
    columns.insert(2, _SEEDS)
    several = len({site for site, _ in sets}) > 1
    return Table(
        desk.name("faithfulness"),
        _caption(seeds),
        columns,
        [Line(_cells(one), _group(site, one, several)) for site, one in sets],
        [_record(site, one) for site, one in sets],
        command,
    )


def _caption(seeds: set[int]) -> str:
    """What the intervals are over, which decides what they may be used for."""
    if max(seeds) < 2:
        return (
            "One seed each. The interval of Δ CE is 95 %, paired and clustered by document: it "
            "says how far another text of this kind would move the figure, and nothing of "
            "another seed."
        )
    many = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else f"{max(seeds)}"
    return (
        f"Mean over {many} seeds with the 95 % interval between seeds (Student's t, "
        "n − 1 degrees of freedom); where several learning rates were trained, over each seed's "
        "best on this very text, which flatters the figures a little. A "
        "row of one seed has the interval by document instead. That two intervals overlap does "
        "not say that two layers are equal."
    )


def _group(site: str, one: Alike, several: bool) -> str:
    control = "Controls" if one.architecture in CONTROLS else ""
    return ": ".join(part for part in (site if several else "", control) if part)


def _cells(one: Alike) -> tuple[str, ...]:
    layers = one.best
    error, loss = of_layers(layers, "nmse"), of_layers(layers, "delta_cross_entropy")
    cells = {
        "layer": look(one.architecture).name,
        "k": count(one.k),
        "seeds": str(len(layers)),
        "width": count(mean_of(layers, "width")),
        "parameters": compact(mean_of(layers, "parameters")),
        "active_parameters": compact(mean_of(layers, "active_parameters")),
        "nmse": NOTHING if error is None else plus_minus(error.mean, error.half),
        "static_nmse": decimal(mean_of(layers, "static_nmse")),
        "modulation_share": percent(mean_of(layers, "modulation_share")),
        "delta_cross_entropy": NOTHING
        if loss is None
        else plus_minus(loss.mean, loss.half, 4, signed=True),
        "loss_recovered": percent(mean_of(layers, "loss_recovered")),
        "l0": decimal(mean_of(layers, "l0"), 1),
        "dead_fraction": percent(mean_of(layers, "dead_fraction")),
        "max_expert_frequency": percent(mean_of(layers, "max_expert_frequency")),
    }
    keys = [column.key for column in COLUMNS]
    keys.insert(2, "seeds")
    return tuple(cells[key] for key in keys)


def _record(site: str, one: Alike) -> dict[str, Any]:
    record: dict[str, Any] = {"site": site, "architecture": one.architecture, "k": one.k}
    record["seeds"] = len(one.best)
    for key in ("width", "parameters", "active_parameters"):
        mean = mean_of(one.best, key)
        record[key] = int(mean) if mean is not None and mean.is_integer() else mean
    for key in FIGURES:
        found = of_layers(one.best, key)
        record[key] = None if found is None else found.mean
        record[f"{key}_half_95"] = None if found is None else found.half
        record[f"{key}_interval"] = "" if found is None else found.kind
    return record


def _pictures(evaluation: dict[str, Any], desk: Desk, command: str) -> list[Block]:
    bars = (
        "between seeds (Student's t)"
        if any((found := of_layers(one.best, "nmse")) and found.kind == SEEDS
               for _, one in _sets(evaluation))
        else "of one seed each, paired and clustered by document"
    )  # fmt: skip
    published = desk.group.published
    model, trained = desk.group.model, desk.group.tokens_trained()
    paper = "" if published is None else f" {published.sentence()}"
    paths = draw_frontier(
        evaluation,
        desk.stem("frontier"),
        model=model,
        tokens_trained=trained,
        published=published,
    )
    blocks: list[Block] = [
        picture(
            paths,
            "Two panels: normalised error, and increase of cross-entropy, against K for each "
            "architecture and the controls. The table has the numbers.",
            "Faithfulness against sparsity. Lower is better, and further left is sparser. Bars "
            f"are 95 % intervals {bars}; faint points are single layers. The dense MLP was "
            f"trained the same way: what an MLP of that width reaches without sparsity.{paper}",
            command,
        )
    ]
    paths = draw_activity(evaluation, desk.stem("activity"), model=model, tokens_trained=trained)
    blocks.append(
        picture(
            paths,
            "Increase of cross-entropy against active parameters for each architecture and the "
            "controls. The table has the numbers.",
            "The same increase against the parameters that touch one token's output. An MxD keeps "
            "a dense MLP running beside its experts, so equal K is not equal activity.",
            command,
        )
    )
    return blocks


def _every_layer(evaluation: dict[str, Any], desk: Desk, command: str) -> Table:
    rows = table_rows(evaluation)
    several = len({row.site for row in rows}) > 1
    layers: Sequence[dict[str, Any]] = evaluation["layers"]
    return Table(
        desk.name("layers"),
        "Every layer by itself: each seed, learning rate and ablation. The interval of Δ CE is "
        "95 %, paired and clustered by document.",
        COLUMNS,
        [Line(row.cells, row.site if several else "") for row in rows],
        [{k: v for k, v in layer.items() if not isinstance(v, (dict, list))} for layer in layers],
        command,
        folded=True,
    )
