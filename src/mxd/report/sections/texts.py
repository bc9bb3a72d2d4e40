"""Out of distribution: the same layers on other texts than they were trained on."""

from typing import Any

from mxd.report._desk import Desk
from mxd.report._intervals import mean_of, of_layers
from mxd.report._looks import look
from mxd.report._series import alike, base_line, by_site
from mxd.report._show import NOTHING, count, decimal, one_line, percent, plus_minus, short_names
from mxd.report.blocks import Column, Line, Section, Table
from mxd.report.combining import Group
from mxd.report.reading import FAITHFULNESS, Document

_COLUMNS = [
    Column("architecture", "layer", "Architecture of the layer."),
    Column("k", "K", "Units that may be active for a token."),
    Column("seeds", "seeds", "Seeds that the figures are the mean of."),
    Column("nmse", "NMSE", "Normalised mean squared error on this text."),
    Column("delta_cross_entropy", "Δ CE ± 95 %", "Increase of the cross-entropy on this text."),
    Column("loss_recovered", "recovered", "Loss recovered on this text."),
    Column("dead_fraction", "dead", "Share of units that never fired on this text."),
]


def texts(group: Group, desk: Desk) -> Section | None:
    """One table of every text by every layer, where there are two texts or more."""
    documents = _distinct(group)
    if len(documents) < 2:
        return None
    lines: list[Line] = []
    records: list[dict[str, Any]] = []
    named = short_names([document.get("text") or "text" for document in documents])
    for document, short in zip(documents, named, strict=True):
        text = str(document.get("text") or "text")
        base = decimal(document.get("base_cross_entropy"), 4)
        for site, layers in by_site(document).items():
            for one in alike(base_line(layers)):
                name = f"{one_line(short)}: base model {base} nats per token"
                lines.append(Line(_cells(one.architecture, one.k, one.best), name))
                records.append(_record(text, site, one.architecture, one.k, one.best))
    commands = dict.fromkeys(desk.made_by(document) for document in documents)
    caption = (
        "The same layers on each text; the first is the one that the rest of this page reports. "
        "Intervals are 95 %: between seeds (Student's t) where there are two or more, else by "
        "document. Cross-entropies of different texts are not comparable, their increases are."
    )
    table = Table(
        desk.name("texts"), caption, _COLUMNS, lines, records, "; ".join(filter(None, commands))
    )
    return Section("On other texts", [table])


def _distinct(group: Group) -> list[Document]:
    """Evaluations with layers, the main one first, one for each text."""
    found = group.of_kind(FAITHFULNESS)
    ordered = sorted(found, key=lambda name: name != group.main)
    texts_of = {str(found[name].get("text")): found[name] for name in reversed(ordered)}
    wanted = [texts_of[text] for text in reversed(texts_of)]
    return [document for document in wanted if document.get("layers")]


def _cells(architecture: str, k: int | None, layers: list[Document]) -> list[str]:
    loss = of_layers(layers, "delta_cross_entropy")
    return [
        look(architecture).name,
        count(k),
        str(len(layers)),
        decimal(mean_of(layers, "nmse")),
        NOTHING if loss is None else plus_minus(loss.mean, loss.half, 4, signed=True),
        percent(mean_of(layers, "loss_recovered")),
        percent(mean_of(layers, "dead_fraction")),
    ]


def _record(
    text: str, site: str, architecture: str, k: int | None, layers: list[Document]
) -> dict[str, Any]:
    record: dict[str, Any] = {"text": text, "site": site, "architecture": architecture, "k": k}
    record["seeds"] = len(layers)
    for key in ("nmse", "delta_cross_entropy", "loss_recovered", "dead_fraction"):
        found = of_layers(layers, key)
        record[key] = None if found is None else found.mean
        record[f"{key}_half_95"] = None if found is None else found.half
    return record
