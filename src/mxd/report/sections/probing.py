"""Sparse probing: whether single units stand for classes that people know."""

from collections.abc import Sequence
from typing import Any

from mxd.report._desk import Desk
from mxd.report._intervals import Interval, mean_of, over_seeds
from mxd.report._looks import look
from mxd.report._series import Alike, at_k, sets_of, shown_k
from mxd.report._show import NOTHING, count, decimal, number, one_line, plus_minus
from mxd.report._studies import Dot, draw_probe
from mxd.report.blocks import Block, Column, Line, Prose, Section, Table
from mxd.report.combining import Group
from mxd.report.reading import Document, mapping, mappings
from mxd.report.sections.picture import picture

_REFERENCES = {"dense_f1": "dense input", "random_f1": "random units", "neuron_f1": "best neuron"}
_MEAN = "mean"
_COLUMNS = [
    Column("layer", "layer", "Architecture of the layer, and its ablation."),
    Column("k", "K", "Units that may be active for a token."),
    Column("seeds", "seeds", "Seeds that the figures are the mean of."),
    Column(
        "f1_mean",
        "F1 ± 95 %",
        "F1 of the best single unit for each class against the rest, mean over classes.",
    ),
    Column("candidates", "tried", "Single units tried for each class."),
    Column("f1_equal_candidates", "equal tries", "F1 where all layers are searched equally far."),
    Column("f1_all", "all units", "F1 of one regression on all units that fire."),
    Column("dense_f1", "dense", "F1 of a regression on the whole input of the MLP."),
    Column("neuron_f1", "neuron", "F1 of the best single dimension of that input."),
    Column("random_f1", "random", "F1 of the best of as many random units."),
    Column("paper_f1_mean", "paper's F1", "F1 of units chosen on the test part: too high."),
]


def probing(group: Group, desk: Desk) -> Section | None:
    """A picture and a table for each task."""
    blocks: list[Block] = []
    for name, document in group.of_kind("probe").items():
        layers = mappings(document.get("layers"))
        if layers:
            blocks += _task(name, document, layers, desk)
    return Section("Sparse probing", blocks) if blocks else None


def _task(name: str, document: Document, layers: list[Document], desk: Desk) -> list[Block]:
    command, task = desk.made_by(document), one_line(document.get("task"), 60)
    k = shown_k(layers)
    blocks: list[Block] = []
    for site in dict.fromkeys(str(layer.get("site")) for layer in layers):
        chosen = at_k([layer for layer in layers if str(layer.get("site")) == site], k)
        if not chosen:
            continue
        first = next(iter(chosen.values()))[0]
        paths = draw_probe(
            {architecture: _by_class(members) for architecture, members in chosen.items()},
            {architecture: _by_k(members) for architecture, members in chosen.items()},
            {said: value for key, said in _REFERENCES.items()
             if (value := number(first.get(key))) is not None},
            desk.stem(name),
            desk.facts(task, site, f"K = {k}"),
        )  # fmt: skip
        blocks.append(
            picture(
                paths,
                f"Two panels: F1 by class of {task}, and mean F1 against the number of units. "
                "The table has the numbers.",
                _caption(document, task, site, k, max(map(len, chosen.values()))),
                command,
            )
        )
    blocks += _tables(name, document, layers, task, desk, command)
    return blocks


def _caption(document: Document, task: str, site: str, k: int | None, seeds: int) -> str:
    chosen = document.get("selection")
    how = "on the test part itself" if chosen == "paper" else "on training texts alone"
    bars = (
        f"between {seeds} seeds (Student's t)" if seeds > 1 else "by bootstrap over test examples"
    )
    return (
        f"Probing for {task} at {site}, K = {k}: {count(document.get('train_texts'))} training and "
        f"{count(document.get('test_texts'))} test texts, "
        f"{count(document.get('skipped_texts'))} skipped. Left: F1 of the best single unit for "
        f"each class against the rest, units chosen {how}; bars are 95 % intervals {bars}. Right: "
        "one regression on several units, with baselines that need no sparse layer."
    )


def _by_class(members: Sequence[Document]) -> dict[str, Dot]:
    names = dict.fromkeys(str(name) for one in members for name in mapping(one.get("classes")))
    found = {}
    for name in names:
        interval = _interval(
            [mapping(mapping(one.get("classes")).get(name)) for one in members], "f1"
        )
        if interval is not None:
            found[name] = Dot(interval.mean, interval.half)
    mean = _interval(members, "f1_mean")
    return found if mean is None else found | {_MEAN: Dot(mean.mean, mean.half)}


def _by_k(members: Sequence[Document]) -> dict[str, float]:
    curves = [mapping(one.get("f1_by_k")) for one in members]
    ks = dict.fromkeys(k for curve in curves for k in curve)
    means = {k: mean_of(curves, k) for k in ks}
    return {str(k): value for k, value in means.items() if value is not None}


def _interval(members: Sequence[Document], key: str) -> Interval | None:
    """Between seeds; of a single seed, half the width of its bootstrap interval."""
    values = [value for one in members if (value := number(one.get(key))) is not None]
    if not values:
        return None
    found = over_seeds(values)
    ends = members[0].get(f"{key}_ci")
    if len(members) == 1 and isinstance(ends, list) and len(ends) == 2:
        low, high = map(number, ends)
        if low is not None and high is not None:
            return found._replace(half=(high - low) / 2, kind="test examples")
    return found


def _tables(
    name: str, document: Document, layers: list[Document], task: str, desk: Desk, command: str
) -> list[Block]:
    sets = sets_of(layers)
    several = len({site for site, _ in sets}) > 1
    blocks: list[Block] = [
        Table(
            desk.name(name),
            f"{task}: mean F1 over classes, mean over seeds. Intervals are 95 %: between seeds "
            "(Student's t) where there are two or more, else by bootstrap over test examples "
            "(half its width).",
            _COLUMNS,
            [Line(_cells(one), site if several else "") for site, one in sets],
            [_record(layer) for layer in layers],
            command,
        ),
        Table(
            desk.name(f"{name}-classes"),
            f"{task}: the best unit of every layer for every class.",
            [
                Column("layer", "layer", "Name of the layer."),
                Column("class", "class", "The class against the rest."),
                Column("unit", "unit", "The unit."),
                Column("f1", "F1", "F1 on the test part."),
                Column("f1_ci", "95 % interval", "By bootstrap over test examples."),
                Column("balanced_accuracy", "balanced", "Mean recall of class and rest."),
                Column("support", "support", "Test examples of the class."),
            ],
            [Line(_class_cells(record)) for record in _classes(layers)],
            _classes(layers),
            command,
            folded=True,
        ),
    ]
    ahead = [_said(one) for one in mappings(document.get("differences"))]
    if ahead:
        blocks.insert(
            1, Prose(["Paired by test example, MxD minus another: " + "; ".join(ahead) + "."])
        )
    return blocks


def _said(difference: Document) -> str:
    ends = difference.get("ci")
    low, high = map(decimal, ends) if isinstance(ends, list) and len(ends) == 2 else (NOTHING,) * 2
    mean = plus_minus(difference.get("f1_mean_difference"), None, signed=True)
    return f"{difference.get('ours')} − {difference.get('theirs')} {mean} [{low}, {high}]"


def _cells(one: Alike) -> list[str]:
    mean = _interval(one.best, "f1_mean")
    every = [mapping(layer.get("f1_by_k")) for layer in one.best]
    return [
        ", ".join(filter(None, (look(one.architecture).name, one.variant))),
        count(one.k),
        str(len(one.best)),
        NOTHING if mean is None else plus_minus(mean.mean, mean.half),
        count(mean_of(one.best, "candidates")),
        decimal(mean_of(one.best, "f1_equal_candidates")),
        decimal(mean_of(every, "all")),
        *(
            decimal(mean_of(one.best, key))
            for key in ("dense_f1", "neuron_f1", "random_f1", "paper_f1_mean")
        ),
    ]


def _record(layer: Document) -> dict[str, Any]:
    record = {key: value for key, value in layer.items() if not isinstance(value, (dict, list))}
    for key, value in mapping(layer.get("f1_by_k")).items():
        record[f"f1_{key}"] = value
    return record | _ends(layer, "f1_mean")


def _classes(layers: Sequence[Document]) -> list[dict[str, Any]]:
    return [
        {
            "name": layer.get("name"),
            "site": layer.get("site"),
            "class": name,
            **{k: v for k, v in figures.items() if not isinstance(v, (dict, list))},
            **_ends(figures, "f1"),
        }
        for layer in layers
        for name, figures in mapping(layer.get("classes")).items()
        if isinstance(figures, dict)
    ]


def _ends(figures: Document, key: str) -> dict[str, Any]:
    ends = figures.get(f"{key}_ci")
    low, high = ends if isinstance(ends, list) and len(ends) == 2 else (None, None)
    return {f"{key}_low": low, f"{key}_high": high}


def _class_cells(record: dict[str, Any]) -> list[str]:
    return [
        str(record["name"]),
        str(record["class"]),
        count(record.get("unit")),
        decimal(record.get("f1")),
        f"{decimal(record['f1_low'])} to {decimal(record['f1_high'])}",
        decimal(record.get("balanced_accuracy")),
        count(record.get("support")),
    ]
