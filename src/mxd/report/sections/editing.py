"""Editing: what removing units costs on a target text and on the rest."""

from collections.abc import Sequence
from typing import Any

from mxd.report._desk import Desk
from mxd.report._intervals import Interval, of_layers
from mxd.report._looks import look
from mxd.report._series import at_k, sets_of, shown_k
from mxd.report._show import NOTHING, count, decimal, number, one_line, plus_minus, without_folders
from mxd.report._studies import Curve, Place, draw_plane
from mxd.report.blocks import Block, Column, Line, Section, Table
from mxd.report.combining import Group
from mxd.report.reading import Document, mapping, mappings
from mxd.report.sections.picture import picture

_RISES = ("target_rise", "keep_rise", "selectivity")
_WHOLE = "whole output at "
_COLUMNS = [
    Column("layer", "layer", "Architecture of the layer, and its ablation."),
    Column("k", "K", "Units that may be active for a token."),
    Column("seeds", "seeds", "Seeds that the figures are the mean of."),
    Column("ranking", "ranking", "How the units were chosen."),
    Column("m", "m", "How many units were edited at once."),
    Column("target_rise", "target rise", "Rise of the cross-entropy on the target text."),
    Column("keep_rise", "keep rise", "Rise on the text to keep: the collateral damage."),
    Column("selectivity", "selectivity", "Target rise minus keep rise."),
    Column("ratio", "ratio", "Target rise over keep rise, where both are above zero."),
]


def editing(group: Group, desk: Desk) -> Section | None:
    """Target rise against keep rise, and a table of selectivity, for each study."""
    blocks: list[Block] = []
    for name, document in group.of_kind("editing").items():
        layers = mappings(document.get("layers"))
        if layers:
            blocks += _study(name, document, layers, desk)
    return Section("Editing", blocks) if blocks else None


def _study(name: str, document: Document, layers: list[Document], desk: Desk) -> list[Block]:
    command = desk.made_by(document)
    target, keep = (_named(document.get(key)) for key in ("target", "keep"))
    k = shown_k(layers)
    blocks: list[Block] = []
    for site in dict.fromkeys(str(layer.get("site")) for layer in layers):
        chosen = at_k([layer for layer in layers if str(layer.get("site")) == site], k)
        panels = _panels(chosen)
        if not panels:
            continue
        paths = draw_plane(
            panels,
            desk.stem(name),
            desk.facts(f"target {target}", f"keep {keep}", site, f"K = {k}"),
            title="Editing: target against collateral",
            axes=("rise on the text to keep (nats / token)", "rise on the target (nats / token)"),
            diagonal="no selectivity",
        )
        blocks.append(
            picture(
                paths,
                "Rise of the cross-entropy on the target text against its rise on the text to "
                "keep, a line for each architecture through growing sets of units.",
                f"Removing units (their contribution × {decimal(document.get('scale'), 1)}) at "
                f"{site}, K = {k}, ranked for {target} against {keep}. Labels give how many units "
                "are edited at once; dotted lines are random units. Above the diagonal the edit "
                "hits the target more than the rest; bars are 95 % intervals, between seeds "
                "(Student's t) or else by document.",
                command,
            )
        )
    rows = [
        (site, one.architecture, one.variant, one.k, ranking, m, edits)
        for site, one in sets_of(layers)
        for ranking, m, edits in _edits(one.best)
    ]
    several = len({row[0] for row in rows}) > 1
    blocks.append(
        Table(
            desk.name(name),
            f"Target {target}, keep {keep}: rises in nats per token on halves of the texts that "
            "did not choose the units. Intervals are 95 %: between seeds (Student's t), else by "
            "document; random rankings are means over their draws; the whole output at zero or at "
            "its mean is what all units together are worth.",
            _COLUMNS,
            [Line(_cells(*row[1:]), row[0] if several else "") for row in rows],
            [_record(layer, edit) for layer in layers for edit in mappings(layer.get("edits"))],
            command,
        )
    )
    return blocks


def _named(text: Any) -> str:
    name = mapping(text).get("text") or (text if isinstance(text, str) else "text")
    return one_line(without_folders(name), 40)


def _edits(members: Sequence[Document]) -> list[tuple[str, int, list[Document]]]:
    """Ranking, m, and one entry for each seed: random draws of a seed are averaged."""
    found: dict[tuple[str, int], list[Document]] = {}
    for layer in members:
        draws: dict[tuple[str, int], list[Document]] = {}
        for edit in mappings(layer.get("edits")):
            m = number(edit.get("m"))
            if m is not None:
                draws.setdefault((str(edit.get("ranking")), int(m)), []).append(edit)
        for which, effect in mapping(layer.get("ablation")).items():
            if isinstance(effect, dict):
                draws[f"{_WHOLE}{which}", 0] = [effect]
        for key, edits in draws.items():
            found.setdefault(key, []).append(_average(edits))
    return [(ranking, m, edits) for (ranking, m), edits in sorted(found.items())]


def _average(edits: list[Document]) -> Document:
    if len(edits) == 1:
        return edits[0]
    figures: Document = {"ratio": None}
    for key in _RISES:
        found = of_layers(edits, key)
        figures[key] = None if found is None else found.mean
    return figures


def _panels(chosen: dict[str, list[Document]]) -> dict[str, list[Curve]]:
    """By ranking: each architecture's curve, and its random control behind it."""
    curves = {architecture: _curves(members) for architecture, members in chosen.items()}
    rankings = dict.fromkeys(r for of in curves.values() for r in of)
    panels: dict[str, list[Curve]] = {}
    for ranking in rankings:
        if ranking.startswith(("random", _WHOLE)):
            continue
        panels[ranking] = [
            Curve(architecture, places, control)
            for control, wanted in ((True, "random_matched"), (False, ranking))
            for architecture, of in curves.items()
            if (places := of.get(wanted) or (of.get("random") if control else None))
        ]
    return panels


def _curves(members: Sequence[Document]) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for ranking, m, edits in _edits(members):
        keep, target = of_layers(edits, "keep_rise"), of_layers(edits, "target_rise")
        if keep is not None and target is not None:
            place = Place(keep.mean, target.mean, keep.half, target.half, str(m))
            found.setdefault(ranking, []).append(place)
    return found


def _cells(
    architecture: str,
    variant: str | None,
    k: int | None,
    ranking: str,
    m: int,
    edits: list[Document],
) -> list[str]:
    def shown(found: Interval | None) -> str:
        return NOTHING if found is None else plus_minus(found.mean, found.half, 4, signed=True)

    ratio = of_layers(edits, "ratio")
    return [
        ", ".join(filter(None, (look(architecture).name, variant))),
        count(k),
        str(len(edits)),
        ranking.replace("_", " "),
        str(m) if m else NOTHING,
        *(shown(of_layers(edits, key)) for key in _RISES),
        NOTHING if ratio is None else decimal(ratio.mean, 1),
    ]


def _record(layer: Document, edit: Document) -> dict[str, Any]:
    of = {key: layer.get(key) for key in ("name", "site", "architecture", "k")}
    plain = {key: value for key, value in edit.items() if not isinstance(value, (dict, list))}
    return of | plain | {"units": edit.get("units")}
