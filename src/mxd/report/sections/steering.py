"""Steering: whether a unit that is turned up makes the model write about one thing, fluently."""

from collections.abc import Iterator, Sequence
from typing import Any

from mxd.report._desk import Desk
from mxd.report._intervals import of_layers
from mxd.report._looks import look
from mxd.report._series import at_k, sets_of, shown_k
from mxd.report._show import NOTHING, count, decimal, number, one_line, plus_minus
from mxd.report._studies import Curve, Place, draw_plane
from mxd.report.blocks import Block, Column, Line, Prose, Samples, Section, Table
from mxd.report.combining import Group
from mxd.report.reading import Document, mapping, mappings
from mxd.report.sections.picture import picture

_SAMPLES, _SETS = 3, 4
_COLUMNS = [
    Column("layer", "layer", "Architecture of the layer, and its ablation."),
    Column("k", "K", "Units that may be active for a token."),
    Column("seeds", "seeds", "Seeds that the figures are the mean of."),
    Column("strength", "strength", "What is added; x counts in the unit's own maximum."),
    Column("judge", "judge", "Who scored the samples."),
    Column("concept", "concept ± 95 %", "How clearly samples share one concept, 0 to 1."),
    Column("fluency", "fluency ± 95 %", "How fluent they are, 0 to 1."),
    Column("random_concept", "random: concept", "The same with a random row of the same norm."),
    Column("random_fluency", "random: fluency", "Likewise."),
    Column("distinct_2", "distinct-2", "Share of different pairs of words among the samples."),
    Column("failed", "failed", "Sets of samples that the judge gave no scores for."),
]


def steering(group: Group, desk: Desk) -> Section | None:
    """Concept against fluency over strengths, the table, and some of the texts."""
    blocks: list[Block] = []
    for name, document in group.of_kind("steering").items():
        layers = mappings(document.get("layers"))
        if layers:
            blocks += _study(name, document, layers, desk)
    return Section("Steering", blocks) if blocks else None


def _study(name: str, document: Document, layers: list[Document], desk: Desk) -> list[Block]:
    command = desk.made_by(document)
    prompt = str(document.get("prompt") or "")
    k = shown_k(layers)
    blocks: list[Block] = []
    for site in dict.fromkeys(str(layer.get("site")) for layer in layers):
        chosen = at_k([layer for layer in layers if str(layer.get("site")) == site], k)
        panels = {judge: _curves(chosen, judge) for judge in _judges(layers)}
        if any(panels.values()):
            blocks.append(_picture(name, document, panels, site, k, prompt, desk, command))
    rows = [
        (site, one.architecture, one.variant, one.k, strength, judge, entries)
        for site, one in sets_of(layers)
        for strength, judge, entries in _entries(one.best)
    ]
    several = len({row[0] for row in rows}) > 1
    blocks.append(
        Table(
            desk.name(name),
            f"Steering from the prompt “{one_line(prompt, 60)}”: mean scores over units. Intervals "
            "are 95 %: between seeds (Student's t) where there are two or more, else over units. "
            "The random row shows what any push of that size does.",
            _COLUMNS,
            [Line(_cells(*row[1:]), row[0] if several else "") for row in rows],
            [_record(layer, *entry) for layer in layers for entry in _flat(layer)],
            command,
        )
    )
    judges = [_judged(judge) for judge in mappings(document.get("judges"))]
    judges += [f"{name} stopped: {why}" for name, why in mapping(document.get("stopped")).items()]
    if judges:
        blocks.append(Prose(["Judges: " + "; ".join(judges) + "."]))
    blocks += _samples(document, layers, prompt, command)
    return blocks


def _picture(
    name: str,
    document: Document,
    panels: dict[str, list[Curve]],
    site: str,
    k: int | None,
    prompt: str,
    desk: Desk,
    command: str,
) -> Block:
    plain = _unsteered(document)
    paths = draw_plane(
        panels,
        desk.stem(name),
        desk.facts(site, f"K = {k}", f"prompt “{one_line(prompt, 40)}”"),
        title="Steering: concept against fluency",
        axes=("shared concept, 0 to 1", "fluency, 0 to 1"),
        marked={judge: place for judge in panels if (place := plain.get(judge))},
        marked_as="not steered",
    )
    return picture(
        paths,
        "Fluency against shared concept, a line for each architecture through growing strengths, "
        "a panel for each judge.",
        f"Mean scores over units at {site}, K = {k}, as the strength grows (labels; x counts in "
        "each unit's own maximum). Dotted: a random row of the same norm is turned up instead; "
        "cross: nothing is. Further right and higher is better; bars are 95 % intervals between "
        "seeds (Student's t), or else over units.",
        command,
    )


def _judged(judge: Document) -> str:
    """What a judge was asked and what it cost."""
    cost = number(judge.get("cost"))
    said = f"{judge.get('name')}, {count(judge.get('verdicts'))} sets of samples"
    said += f", {count(judge.get('failed'))} without scores"
    return said if cost is None else f"{said}, cost {decimal(cost, 2)}"


def _strength(entry: Document) -> str:
    value = entry.get("strength")
    shown = f"{value:g}" if isinstance(value, (int, float)) else one_line(value, 12)
    return shown + ("x" if entry.get("unit_of") == "max" else "")


def _judges(layers: Sequence[Document]) -> list[str]:
    found = [
        judge
        for layer in layers
        for entry in mappings(layer.get("strengths"))
        for judge in mapping(entry.get("judges"))
    ]
    return list(dict.fromkeys(found))


def _flat(layer: Document) -> Iterator[tuple[str, str, Document]]:
    """Strength, judge and figures: the unit's own, and those of a random row beside them."""
    for entry in mappings(layer.get("strengths")):
        randomly = mapping(entry.get("random_direction"))
        for judge, scores in mapping(entry.get("judges")).items():
            own = mapping(scores)
            other = mapping(mapping(randomly.get("judges")).get(judge))
            yield (
                _strength(entry),
                judge,
                {
                    **{k: v for k, v in own.items() if not isinstance(v, (dict, list))},
                    "distinct_1": entry.get("distinct_1"),
                    "distinct_2": entry.get("distinct_2"),
                    "random_concept": other.get("concept"),
                    "random_concept_se": other.get("concept_se"),
                    "random_fluency": other.get("fluency"),
                    "random_fluency_se": other.get("fluency_se"),
                },
            )


def _entries(members: Sequence[Document]) -> list[tuple[str, str, list[Document]]]:
    """Strength and judge, with the figures of each seed."""
    found: dict[tuple[str, str], list[Document]] = {}
    for layer in members:
        for strength, judge, figures in _flat(layer):
            found.setdefault((strength, judge), []).append(figures)
    return [(strength, judge, entries) for (strength, judge), entries in found.items()]


def _curves(chosen: dict[str, list[Document]], judge: str) -> list[Curve]:
    curves = []
    for prefix in ("random_", ""):
        for architecture, members in chosen.items():
            places = [
                Place(x.mean, y.mean, x.half, y.half, strength)
                for strength, by, entries in _entries(members)
                if by == judge
                and (x := of_layers(entries, f"{prefix}concept")) is not None
                and (y := of_layers(entries, f"{prefix}fluency")) is not None
            ]
            if places:
                curves.append(Curve(architecture, places, bool(prefix)))
    return curves


def _unsteered(document: Document) -> dict[str, tuple[float, float]]:
    judges = mapping(mapping(document.get("unsteered")).get("judges"))
    found = {}
    for judge, scores in judges.items():
        concept, fluency = (number(mapping(scores).get(key)) for key in ("concept", "fluency"))
        if concept is not None and fluency is not None:
            found[judge] = (concept, fluency)
    return found


def _samples(
    document: Document, layers: Sequence[Document], prompt: str, command: str
) -> list[Block]:
    """A few of the texts that the scores are of."""
    texts: list[tuple[str, Sequence[str]]] = []
    plain = _texts(mapping(document.get("unsteered")).get("samples"))
    if plain:
        texts.append(("not steered", plain[:_SAMPLES]))
    for layer in layers:
        for example in mappings(layer.get("examples")):
            wrote = _texts(example.get("samples") or example.get("texts"))
            if wrote:
                label = f"{layer.get('name')}, unit {example.get('unit')}"
                strength = f" at {_strength(example)}" if "strength" in example else ""
                texts.append((label + strength, wrote[:_SAMPLES]))
                break
    if not texts:
        return []
    return [Samples("Some of the texts.", prompt, texts[: _SETS + 1], command)]


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _cells(
    architecture: str,
    variant: str | None,
    k: int | None,
    strength: str,
    judge: str,
    entries: list[Document],
) -> list[str]:
    def shown(key: str) -> str:
        found = of_layers(entries, key)
        return NOTHING if found is None else plus_minus(found.mean, found.half)

    failed = [number(entry.get("failed")) for entry in entries]
    return [
        ", ".join(filter(None, (look(architecture).name, variant))),
        count(k),
        str(len(entries)),
        strength,
        judge,
        *(shown(key) for key in ("concept", "fluency", "random_concept", "random_fluency")),
        decimal(found.mean if (found := of_layers(entries, "distinct_2")) else None),
        count(sum(one or 0 for one in failed)),
    ]


def _record(layer: Document, strength: str, judge: str, figures: Document) -> dict[str, Any]:
    of = {key: layer.get(key) for key in ("name", "site", "architecture", "k")}
    return of | {"strength": strength, "judge": judge} | figures
