"""How training went: the error, and how near experts came to losing rank."""

from mxd.report._curves import singular_values_by_site
from mxd.report._desk import Desk
from mxd.report._show import NOTHING, compact, number
from mxd.report.blocks import Block, Column, Line, Section, Table
from mxd.report.combining import Group
from mxd.report.figures import draw_singular_values, draw_training
from mxd.report.sections.overview import command_of
from mxd.report.sections.picture import picture

_KEYS = (
    "step", "tokens", "site", "student", "loss", "nmse", "l0", "dead_fraction", "lr",
    "smallest_singular_value",
)  # fmt: skip


def training(group: Group, desk: Desk) -> Section | None:
    """Training curves of every student."""
    rows = group.metrics()
    if not rows:
        return None
    commands = dict.fromkeys(command_of(run.record) for run in group.runs)
    command = "; ".join(filter(None, commands)) or desk.command
    facts = desk.facts()
    blocks: list[Block] = [
        picture(
            draw_training(rows, desk.stem("training"), facts=facts),
            "Normalised error on training text against tokens trained on, for each student.",
            "Error during training, mean over seeds. A curve that still falls at its right end "
            "belongs to a student that had not finished learning.",
            command,
        )
    ]
    if singular_values_by_site(rows):
        blocks.append(
            picture(
                draw_singular_values(rows, desk.stem("singular-values"), facts=facts),
                "Smallest singular value of sampled experts against tokens trained on, for each "
                "MxD.",
                "Smallest singular value of a few experts of each MxD during training, the least "
                "over seeds: a fall towards zero is rank collapse.",
                command,
            )
        )
    return Section("Training", [*blocks, _ends(rows, desk, command)])


def _ends(rows: list[dict[str, object]], desk: Desk, command: str) -> Table:
    """The newest line of each student; the CSV file has all of them."""
    last = {(str(row.get("site")), str(row.get("student"))): row for row in rows}
    columns = [
        Column("student", "student", "Name of the layer."),
        Column("tokens", "tokens", "Tokens trained on."),
        Column("nmse", "NMSE", "Normalised error on training text at the end."),
        Column("lr", "learning rate", "Learning rate of the last step."),
    ]
    lines = [
        Line(
            [
                student,
                compact(row.get("tokens")),
                *(_plain(row.get(key)) for key in ("nmse", "lr")),
            ],
            site,
        )
        for (site, student), row in last.items()
    ]
    records = [{key: row[key] for key in _KEYS if key in row} for row in rows]
    caption = "Where each student's training ended; the CSV file has every line of the log."
    return Table(desk.name("training"), caption, columns, lines, records, command, folded=True)


def _plain(value: object) -> str:
    found = number(value)
    return NOTHING if found is None else f"{found:.4g}"
