"""The paper's numbers beside ours, where the set-up is the paper's."""

from mxd.report._desk import Desk
from mxd.report._intervals import of_layers
from mxd.report._looks import look
from mxd.report._series import alike, base_line, by_site
from mxd.report._show import NOTHING, count, decimal, percent, plus_minus
from mxd.report.blocks import Block, Column, Line, Prose, Section, Table
from mxd.report.combining import Group
from mxd.report.published import Published
from mxd.report.reading import Document

_COLUMNS = [
    Column("layer", "layer", "Architecture of the layer."),
    Column("k", "K", "Units that may be active for a token."),
    Column("published", "paper", "The paper's increase of the cross-entropy, in nats per token."),
    Column("delta_cross_entropy", "ours ± 95 %", "Ours on held-out text."),
    Column("difference", "ours − paper", "Difference of the two."),
]


def paper(group: Group, desk: Desk) -> Section | None:
    """A table of both, and what sets them apart."""
    evaluation, published = group.evaluation, group.published
    if published is None or not evaluation.get("layers"):
        return None
    records = _records(evaluation, published)
    if not records:
        return None
    scale = NOTHING if published.scale is None else percent(published.scale)
    blocks: list[Block] = [
        Prose(
            [
                f"Preset {published.preset}, trained on {scale} of its tokens. The paper's "
                f"numbers ({published.source}) are for text seen in training, with a base "
                f"cross-entropy of {decimal(published.base_cross_entropy, 4)}; ours are for "
                f"held-out text, with one of {decimal(evaluation.get('base_cross_entropy'), 4)}."
            ]
        ),
        Table(
            desk.name("published"),
            "Increase of the cross-entropy in nats per token. Intervals are ours alone: 95 %, "
            "between seeds (Student's t) where there are two or more, else by document. The paper "
            "gives none.",
            _COLUMNS,
            [_line(record) for record in records],
            records,
            desk.made_by(evaluation),
        ),
    ]
    return Section("Beside the paper", blocks)


def _records(evaluation: Document, published: Published) -> list[Document]:
    """What both measured, for each architecture and K."""
    records: list[Document] = []
    sites = by_site(evaluation)
    for site, layers in sites.items():
        if not published.belongs_to(site, len(sites)):
            continue
        for one in alike(base_line(layers)):
            theirs = dict(published.points.get(one.architecture, [])).get(one.k or 0)
            ours = of_layers(one.best, "delta_cross_entropy")
            if theirs is None or ours is None:
                continue
            records.append(
                {
                    "site": site,
                    "architecture": one.architecture,
                    "k": one.k,
                    "published_delta_cross_entropy": theirs,
                    "delta_cross_entropy": ours.mean,
                    "delta_cross_entropy_half_95": ours.half,
                    "interval": ours.kind,
                    "seeds": ours.n,
                }
            )
    return records


def _line(record: Document) -> Line:
    theirs, ours = record["published_delta_cross_entropy"], record["delta_cross_entropy"]
    half = record["delta_cross_entropy_half_95"]
    return Line(
        [
            look(record["architecture"]).name,
            count(record["k"]),
            plus_minus(theirs, None, 4, signed=True),
            plus_minus(ours, half, 4, signed=True),
            plus_minus(ours - theirs, None, 4, signed=True),
        ]
    )
